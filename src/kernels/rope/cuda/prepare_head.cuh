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

// Whether a head is rotated as a whole by one batch of pairs.
__device__ __forceinline__ bool is_short_head(const GqaPrepare& a) {
  return a.angles.dim == a.dim && a.dim <= 2 * 32 * kPairs;
}

// The norm's weights of a lane's pairs, which may be read before the head is there.
struct HeadWeights {
  float first[kPairs] = {}, second[kPairs] = {};

  __device__ __forceinline__ HeadWeights() {}
  __device__ __forceinline__ HeadWeights(const GqaPrepare& a, const Rotation& rotation, const float* weight) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int i = lane + 32 * j;
      const bool there = weight != nullptr && i < a.dim / 2;
      first[j] = there ? weight[rotation.first(i)] : 0.0f;
      second[j] = there ? weight[rotation.second(i)] : 0.0f;
    }
  }
};

// A short head: every load is under way at once.
template <class Store>
__device__ __forceinline__ void prepare_short_head(const GqaPrepare& a, const Rotation& rotation, const float* x,
                                                   bool has_norm, const HeadWeights& weights, const Store& store) {
  const int lane = threadIdx.x & 31, half = a.dim / 2;
  float first[kPairs], second[kPairs], sum = 0;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = lane + 32 * j;
    first[j] = i < half ? x[rotation.first(i)] : 0.0f;
    second[j] = i < half ? x[rotation.second(i)] : 0.0f;
  }
  if (has_norm) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) sum = fmaf(first[j], first[j], fmaf(second[j], second[j], sum));
    const float scale = rms_factor(warp_sum(sum), a.dim, a.eps);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      first[j] = first[j] * scale * weights.first[j];
      second[j] = second[j] * scale * weights.second[j];
    }
  }
  rotation.rotate_batch(lane, first, second, store);
}

// Any other.
template <class Store>
__device__ __forceinline__ void prepare_long_head(const GqaPrepare& a, Rotation& rotation, const float* x,
                                                  const float* weight, const Store& store) {
  const float scale = weight != nullptr ? norm_scale(x, a.dim, a.eps) : 1.0f;
  const auto value = [&](int i) { return weight != nullptr ? x[i] * scale * weight[i] : x[i]; };
  rotation.load(value);
  rotation.rotate(value, store);
  for (int i = a.angles.dim + static_cast<int>(threadIdx.x & 31); i < a.dim; i += 32) store(i, value(i));
}

// Norm and rotation of one head, by a warp.
template <class Store>
__device__ __forceinline__ void prepare_head(const GqaPrepare& a, Rotation& rotation, const float* x,
                                             const float* weight, const Store& store) {
  if (is_short_head(a)) {
    prepare_short_head(a, rotation, x, weight != nullptr, HeadWeights(a, rotation, weight), store);
  } else {
    prepare_long_head(a, rotation, x, weight, store);
  }
}

}  // namespace fairway::kernels::cuda
