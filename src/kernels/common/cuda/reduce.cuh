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

// Sums each of kValues (a power of two up to 32) values over the warp: lane l gets the sum of value l * kValues / 32.
// Halves of the values change sides, so 32 values take 31 shuffles and not 160.
template <int kValues>
__device__ __forceinline__ float spread_sum(float (&v)[kValues]) {
  const int lane = threadIdx.x & 31;
  int distance = 16;
#pragma unroll
  for (int half = kValues / 2; half > 0; half /= 2) {
    const bool upper = (lane & distance) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float kept = upper ? v[i + half] : v[i];
      const float given = upper ? v[i] : v[i + half];
      v[i] = kept + __shfl_xor_sync(kAllLanes, given, distance);
    }
    distance /= 2;
  }
  for (; distance > 0; distance /= 2) v[0] += __shfl_xor_sync(kAllLanes, v[0], distance);
  return v[0];
}

}  // namespace fairway::kernels::cuda
