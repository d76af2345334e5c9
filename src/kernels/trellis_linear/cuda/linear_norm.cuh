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
  return 1.0f / sqrtf(squares / static_cast<float>(norm.n) + norm.eps);
}

// v = four elements of a row, which are `sum` before the norm, scaled by those at suh, and their block transformed.
__device__ __forceinline__ void transform_normed(const LinearNorm& norm, float4 sum, float factor, int k,
                                                 const __half* suh, float (&v)[4]) {
  float4 weight = make_float4(0, 0, 0, 0);
  if (k < norm.n) weight = *reinterpret_cast<const float4*>(norm.weight + k);
  // 0 * factor is NaN where the factor is: what lies beyond n is zero all the same.
  const float scale = k < norm.n ? factor : 0.0f;
  v[0] = sum.x * scale * weight.x;
  v[1] = sum.y * scale * weight.y;
  v[2] = sum.z * scale * weight.z;
  v[3] = sum.w * scale * weight.w;
  scale_by(v, suh);
  hadamard128(v);
}

// The factors of some rows, by the computing warps of a CTA: each warp sums up a part of a row, or whole rows where
// there are as many as warps.
constexpr int kMostNormRows = 2 * kComputeWarps;

struct NormParts {
  float squares[kMostNormRows];

  static __device__ __forceinline__ int parts_of(int rows) { return max(1, kComputeWarps / rows); }

  // To be followed by a barrier of the computing warps.
  __device__ __forceinline__ void add_up(const LinearNorm& norm, int first_row, int rows) {
    const int parts = parts_of(rows), lane = static_cast<int>(threadIdx.x & 31);
#pragma unroll 1
    for (int unit = static_cast<int>(threadIdx.x >> 5); unit < rows * parts; unit += kComputeWarps) {
      const int row = first_row + unit / parts;
      float sum = 0;
#pragma unroll 2
      for (int k = 4 * (32 * (unit % parts) + lane); k < norm.n; k += kBand * parts) {
        sum = add_squares(sum, load_norm_sum(norm, row, k));
      }
      sum = warp_sum(sum);
      if (lane == 0) squares[unit] = sum;
    }
  }

  // rows: as in add_up(); row: from first_row on.
  __device__ __forceinline__ float factor(const LinearNorm& norm, int rows, int row) const {
    const int parts = parts_of(rows);
    float sum = 0;
    for (int i = 0; i < parts; ++i) sum += squares[row * parts + i];
    return norm_factor(norm, sum);
  }
};

}  // namespace fairway::kernels::cuda
