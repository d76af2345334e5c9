// Products of floats with halves, four at a time.
#pragma once

#include <cuda_fp16.h>

namespace fairway::kernels::cuda {

__device__ __forceinline__ float4 four_floats(uint2 halves) {
  const float2 low = __half22float2(*reinterpret_cast<const __half2*>(&halves.x));
  const float2 high = __half22float2(*reinterpret_cast<const __half2*>(&halves.y));
  return make_float4(low.x, low.y, high.x, high.y);
}

// sum[j] += weight j * x
__device__ __forceinline__ void add_products(float (&sum)[4], uint2 weights, float x) {
  const float4 w = four_floats(weights);
  sum[0] = fmaf(w.x, x, sum[0]);
  sum[1] = fmaf(w.y, x, sum[1]);
  sum[2] = fmaf(w.z, x, sum[2]);
  sum[3] = fmaf(w.w, x, sum[3]);
}
// sum += of four products
__device__ __forceinline__ void add_product(float& sum, uint2 weights, float4 x) {
  const float4 w = four_floats(weights);
  sum = fmaf(w.x, x.x, sum);
  sum = fmaf(w.y, x.y, sum);
  sum = fmaf(w.z, x.z, sum);
  sum = fmaf(w.w, x.w, sum);
}

}  // namespace fairway::kernels::cuda
