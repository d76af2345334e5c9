// A random expert layer on both sides.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"
#include "kernels/verify/cuda/device_copies.cuh"
#include "kernels/verify/expert_problem.h"

namespace fairway::verify {

class DeviceExperts {
 public:
  static constexpr int kRouted = 8, kShared = 1, kTopK = 3;  // one routed expert for each width

  // Sizes of matrices up to most_size. Experts take the codebooks in turn. common_scales: gate and up of all experts
  // share their input scales.
  DeviceExperts(std::mt19937& random, backend::CudaStream& stream, int most_size,
                const std::vector<codec::Codebook>& codebooks, int round, bool common_scales);

  const kernels::cuda::MoeLayer& layer() const { return layer_; }
  int hidden() const { return hidden_; }

  // Random rows and routing of a call, and what the reference says: [tokens, hidden]. Lasts until the next call.
  std::vector<float> start_call(std::mt19937& random, int tokens);
  // The same on the device, [tokens, hidden] with `poison` in outputs and scratch before.
  std::vector<float> run(kernels::cuda::MoePath path, int poison);

 private:
  std::vector<float> reference(const std::vector<float>& x, const std::vector<int>& ids,
                               const std::vector<float>& weights) const;

  backend::CudaStream& stream_;
  DeviceCopies weights_copies_;
  std::unique_ptr<DeviceCopies> call_copies_;
  int hidden_, tokens_ = 0;
  std::vector<std::unique_ptr<Expert>> experts_;
  kernels::cuda::MoeLayer layer_{};
  kernels::cuda::MoeCall call_{};
  void* workspace_ = nullptr;
  std::size_t workspace_bytes_ = 0;
};

}  // namespace fairway::verify
