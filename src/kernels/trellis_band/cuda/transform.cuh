// The 128-point Hadamard transform of one block by one warp: lane t holds elements 4t..4t+3.
#pragma once

#include <cuda_fp16.h>

#include "kernels/trellis_band/cuda/band.cuh"

namespace fairway::kernels::cuda {

// What a lane does of it by itself.
__device__ __forceinline__ void hadamard128_begin(float (&v)[4]) {
  constexpr float kScale = 0.08838834764831845f;  // 1 / sqrt(128)
  const float a = v[0] + v[1], b = v[0] - v[1], c = v[2] + v[3], d = v[2] - v[3];
  v[0] = (a + c) * kScale;
  v[1] = (b + d) * kScale;
  v[2] = (a - c) * kScale;
  v[3] = (b - d) * kScale;
}

__device__ __forceinline__ void hadamard128(float (&v)[4]) {
  hadamard128_begin(v);
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const float sign = lane & distance ? -1.0f : 1.0f;  // a product with it is exact: one instruction for both cases
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = fmaf(v[i], sign, __shfl_xor_sync(0xFFFFFFFFu, v[i], distance));
  }
}

// hadamard128() of v and the sum of another value over the warp, step by step together: shuffles stay in the order in
// which they are written.
__device__ __forceinline__ void hadamard128_and_sum(float (&v)[4], float& sum) {
  const int lane = threadIdx.x & 31;
  hadamard128_begin(v);
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const float sign = lane & distance ? -1.0f : 1.0f;
    float other[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) other[i] = __shfl_xor_sync(0xFFFFFFFFu, v[i], distance);
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, distance);
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = fmaf(v[i], sign, other[i]);
  }
}

__device__ __forceinline__ void load_half4(const __half* p, float (&v)[4]) {
  const uint2 raw = *reinterpret_cast<const uint2*>(p);
  const float2 a = __half22float2(*reinterpret_cast<const __half2*>(&raw.x));
  const float2 b = __half22float2(*reinterpret_cast<const __half2*>(&raw.y));
  v[0] = a.x;
  v[1] = a.y;
  v[2] = b.x;
  v[3] = b.y;
}

__device__ __forceinline__ void scale_by(float (&v)[4], const __half* scales) {
  float s[4];
  load_half4(scales, s);
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] *= s[i];
}

// Saturates: activations beyond the range of half stay finite.
__device__ __forceinline__ __half2 to_half2(float a, float b) {
  constexpr float kMax = 65504.0f;
  return __floats2half2_rn(fminf(fmaxf(a, -kMax), kMax), fminf(fmaxf(b, -kMax), kMax));
}

// v = four elements of a row, at x, scaled by those at suh, and their block transformed.
__device__ __forceinline__ void transform_input(const __half* x, const __half* suh, float (&v)[4]) {
  load_half4(x, v);
  scale_by(v, suh);
  hadamard128(v);
}

// Elements 4t..4t+3 of a block as halves into the block's 128 places, fragment order.
__device__ __forceinline__ void store_fragment_order(__half* block, const float (&v)[4]) {
  const int k = 4 * (threadIdx.x & 31);
  *reinterpret_cast<__half2*>(block + fragment_order(k)) = to_half2(v[0], v[1]);
  *reinterpret_cast<__half2*>(block + fragment_order(k + 2)) = to_half2(v[2], v[3]);
}

}  // namespace fairway::kernels::cuda
