// A random expert layer on the host and on the device, and its outputs in double precision.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"
#include "kernels/trellis_band/cuda/host_matrix.cuh"

namespace fairway::kernels::cuda::check {

struct LayerShape {
  std::string name;
  int routed, shared, top_k, hidden, max_intermediate;
  int bits;      // 0: random 1..8 for every matrix
  int codebook;  // codec::Codebook, or -1: random for every matrix
  bool common_suh;
  std::uint64_t seed;
};

struct HostExpert {
  HostMatrix gate, up, down;
  int intermediate;
};

class Problem {
 public:
  Problem(const LayerShape& shape, int max_tokens);

  const LayerShape& shape() const { return shape_; }
  const MoeLayer& layer() const { return layer_; }
  const __half* x() const { return x_device_; }
  int experts() const { return shape_.routed + shape_.shared; }

  // Output of one expert for one token, computed once.
  const std::vector<double>& expert_output(int token, int expert);

 private:
  LayerShape shape_;
  DeviceData device_;
  std::vector<HostExpert> host_;
  std::vector<float> x_;
  MoeLayer layer_{};
  __half* x_device_ = nullptr;
  std::map<std::pair<int, int>, std::vector<double>> outputs_;
};

}  // namespace fairway::kernels::cuda::check
