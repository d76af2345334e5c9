// A random expert layer on the host and on the device, and its outputs in double precision.
//
// The reference shares nothing with the kernels but the codec's definitions in codec/trellis.h: tiles are decoded to
// dense inner matrices by table, transforms are written as sums of their definition.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"

namespace fairway::kernels::cuda::check {

// splitmix64: the same numbers on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next();
  int below(int n) { return static_cast<int>(next() % static_cast<std::uint64_t>(n)); }
  float uniform(float low, float high);  // [low, high)
  float normal();

 private:
  std::uint64_t state_;
};

struct LayerShape {
  std::string name;
  int routed, shared, top_k, hidden, max_intermediate;
  int bits;      // 0: random 1..8 for every matrix
  int codebook;  // codec::Codebook, or -1: random for every matrix
  bool common_suh;
  std::uint64_t seed;
};

// One matrix on the host; inner is decoded, [in][out].
struct HostMatrix {
  int in, out, bits, codebook;
  std::vector<unsigned char> words;
  std::vector<float> suh, svh;  // exact halves
  std::vector<float> inner;

  // y[out] of x[in].
  std::vector<double> apply(const std::vector<double>& x) const;
};

struct HostExpert {
  HostMatrix gate, up, down;
  int intermediate;
};

// Frees what it allocated on the device. Every array is an allocation of its own, so that compute-sanitizer sees reads
// beyond it.
class Problem {
 public:
  Problem(const LayerShape& shape, int max_tokens);
  ~Problem();
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

  const LayerShape& shape() const { return shape_; }
  const MoeLayer& layer() const { return layer_; }
  const __half* x() const { return x_device_; }
  int experts() const { return shape_.routed + shape_.shared; }

  // Output of one expert for one token, computed once.
  const std::vector<double>& expert_output(int token, int expert);

 private:
  template <typename T>
  T* upload(const std::vector<T>& values);
  HostMatrix random_matrix(Random& random, int in, int out, const std::vector<float>* suh);
  TrellisRef to_device(const HostMatrix& m, const __half* suh);

  LayerShape shape_;
  std::vector<HostExpert> host_;
  std::vector<float> x_;
  MoeLayer layer_{};
  __half* x_device_ = nullptr;
  std::vector<void*> allocations_;
  std::map<std::pair<int, int>, std::vector<double>> outputs_;
};

}  // namespace fairway::kernels::cuda::check
