// The RMS norm in front of a linear layer, by the kernels that transform its inputs.
#pragma once

#include "kernels/common/cuda/reduce.cuh"
#include "kernels/trellis_band/cuda/transform.cuh"
#include "kernels/trellis_linear/cuda/trellis_linear_cuda.cuh"

namespace fairway::kernels::cuda {

// Elements k..k+3 of x + add, zeros from n on.
__device__ __forceinline__ float4 load_norm_sum(const LinearNorm& norm, long long row, int k) {
  if (k >= norm.n) return make_float4(0, 0, 0, 0);
  float4 v = *reinterpret_cast<const float4*>(norm.x + row * norm.ldx + k);
  if (norm.add == nullptr) return v;
  const float4 other = *reinterpret_cast<const float4*>(norm.add + row * norm.ldadd + k);
  v.x += other.x;
  v.y += other.y;
  v.z += other.z;
  v.w += other.w;
  return v;
}

__device__ __forceinline__ void store_norm_sum(const LinearNorm& norm, long long row, int k, float4 v) {
  if (norm.sum != nullptr && k < norm.n) *reinterpret_cast<float4*>(norm.sum + row * norm.ldsum + k) = v;
}

__device__ __forceinline__ float add_squares(float sum, float4 v) {
  return fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, sum))));
}

// What a row is multiplied by beside the weight, from the sum of its squares.
__device__ __forceinline__ float norm_factor(const LinearNorm& norm, float squares) {
  return rms_factor(squares, norm.n, norm.eps);
}

// v = the norm of four elements of a row, which are `sum` before it.
__device__ __forceinline__ void scale_normed(const LinearNorm& norm, float4 sum, float factor, int k, float (&v)[4]) {
  float4 weight = make_float4(0, 0, 0, 0);
  if (k < norm.n) weight = *reinterpret_cast<const float4*>(norm.weight + k);
  v[0] = sum.x * factor * weight.x;
  v[1] = sum.y * factor * weight.y;
  v[2] = sum.z * factor * weight.z;
  v[3] = sum.w * factor * weight.w;
}

}  // namespace fairway::kernels::cuda
