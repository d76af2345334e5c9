// Norm and rotation of a head of grouped-query attention, by a warp.
#pragma once

#include "kernels/common/cuda/reduce.cuh"
#include "kernels/rope/cuda/rope_cuda.cuh"
#include "kernels/rope/cuda/rotation.cuh"

namespace fairway::kernels::cuda {

// 1 / sqrt(mean(x^2) + eps) of n values, by a warp.
__device__ __forceinline__ float norm_scale(const float* x, int n, float eps) {
  float sum = 0;
  copy_elements<8>(
      n, [&](int i) { return x[i]; }, [&](int, float v) { sum = fmaf(v, v, sum); });
  return rms_factor(warp_sum(sum), n, eps);
}

// A head that is rotated as a whole by one batch of pairs: every load is under way at once.
template <class Store>
__device__ __forceinline__ void prepare_short_head(const GqaPrepare& a, const Rotation& rotation, const float* x,
                                                   const float* weight, const Store& store) {
  const int lane = threadIdx.x & 31, half = a.dim / 2;
  float first[kPairs], second[kPairs], sum = 0;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = lane + 32 * j;
    first[j] = i < half ? x[rotation.first(i)] : 0.0f;
    second[j] = i < half ? x[rotation.second(i)] : 0.0f;
  }
  if (weight != nullptr) {
    float first_weight[kPairs], second_weight[kPairs];
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int i = lane + 32 * j;
      first_weight[j] = i < half ? weight[rotation.first(i)] : 0.0f;
      second_weight[j] = i < half ? weight[rotation.second(i)] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kPairs; ++j) sum = fmaf(first[j], first[j], fmaf(second[j], second[j], sum));
    const float scale = rms_factor(warp_sum(sum), a.dim, a.eps);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      first[j] = first[j] * scale * first_weight[j];
      second[j] = second[j] * scale * second_weight[j];
    }
  }
  rotation.rotate_batch(lane, first, second, store);
}

// Norm and rotation of one head, by a warp.
template <class Store>
__device__ __forceinline__ void prepare_head(const GqaPrepare& a, Rotation& rotation, const float* x,
                                             const float* weight, const Store& store) {
  if (a.angles.dim == a.dim && a.dim <= 2 * 32 * kPairs) {
    prepare_short_head(a, rotation, x, weight, store);
    return;
  }
  const float scale = weight != nullptr ? norm_scale(x, a.dim, a.eps) : 1.0f;
  const auto value = [&](int i) { return weight != nullptr ? x[i] * scale * weight[i] : x[i]; };
  rotation.load(value);
  rotation.rotate(value, store);
  for (int i = a.angles.dim + static_cast<int>(threadIdx.x & 31); i < a.dim; i += 32) store(i, value(i));
}

}  // namespace fairway::kernels::cuda
