// Sums over the lanes of a warp and the warps of a CTA, in one fixed order.
#pragma once

#include <cuda_runtime.h>

namespace fairway::kernels::cuda {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// The same bits in every lane.
template <class T>
__device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) v += __shfl_xor_sync(kAllLanes, v, distance);
  return v;
}

// NaN loses.
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, distance));
  return v;
}

// What an RMS norm multiplies n values with beside its weights, from the sum of their squares: to within a few units of
// the last place, in instructions without branches.
__device__ __forceinline__ float rms_factor(float squares, int n, float eps) {
  return rsqrtf(__fdividef(squares, static_cast<float>(n)) + eps);
}

// The same bits in every thread. partial: shared memory, one T a warp; free for reuse after the next __syncthreads().
template <class T>
__device__ __forceinline__ T block_sum(T v, T* partial) {
  v = warp_sum(v);
  if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = v;
  __syncthreads();
  T total = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x >> 5); ++w) total += partial[w];
  return total;
}

// Sums each of kValues (a power of two up to kLanes) values over kLanes neighbouring lanes: lane l of them gets the sum
// of value l * kValues / kLanes. Halves of the values change sides, so 32 values take 31 shuffles and not 160.
template <int kLanes = 32, int kValues>
__device__ __forceinline__ float spread_sum(const float (&v)[kValues]) {
  if constexpr (kValues == 1) {
    float sum = v[0];
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAllLanes, sum, distance);
    return sum;
  } else {  // not a loop: some compilers keep one, and the values in local memory with it
    constexpr int kHalf = kValues / 2;
    const bool upper = (threadIdx.x & (kLanes / 2)) != 0;
    float kept[kHalf];
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const float first = v[i], second = v[i + kHalf];
      kept[i] = (upper ? second : first) + __shfl_xor_sync(kAllLanes, upper ? first : second, kLanes / 2);
    }
    return spread_sum<kLanes / 2>(kept);
  }
}

}  // namespace fairway::kernels::cuda
