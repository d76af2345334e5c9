// How a lane reads its four inputs of a block: what they are multiplied by apart from them, so that it can be asked for
// before the kernel in front has ended.
#pragma once

#include "kernels/trellis_linear/cuda/linear_norm.cuh"
#include "kernels/trellis_linear/cuda/linear_paths.cuh"

namespace fairway::kernels::cuda {

// What a lane's four inputs of a block are multiplied by: read before the kernel in front has ended.
struct InputScales {
  float4 weight;  // of the norm; ones without it
  uint2 suh;

  __device__ __forceinline__ void load(const LinearArgs& a, const __half* scales, int k) {
    suh = *reinterpret_cast<const uint2*>(scales + k);
    const bool norms = a.call.norm.x != nullptr;
    weight = norms ? make_float4(0, 0, 0, 0) : make_float4(1, 1, 1, 1);
    if (norms && k < a.call.norm.n) {
      weight = *reinterpret_cast<const float4*>(a.call.norm.weight + k);
    }
  }
  __device__ __forceinline__ void apply(const float (&x)[4], float (&v)[4]) const {
    const float2 low = __half22float2(as_half2(suh.x)), high = __half22float2(as_half2(suh.y));
    v[0] = x[0] * weight.x * low.x;
    v[1] = x[1] * weight.y * low.y;
    v[2] = x[2] * weight.z * high.x;
    v[3] = x[3] * weight.w * high.y;
  }
};

// A row's part of a norm in front, or of x. Squares of the former.
struct InputPart {
  float v[4];
  float squares = 0;

  __device__ __forceinline__ void load(const LinearArgs& a, const LinearInput& in, int row, int k) {
    const LinearNorm& norm = a.call.norm;
    if (norm.x == nullptr) {
      load_half4(a.call.x + row * a.call.ldx + k, v);
      return;
    }
    const float4 sum = load_norm_sum(norm, row, k);
    if (in.stores_sum) store_norm_sum(norm, row, k, sum);
    squares = add_squares(0.0f, sum);
    v[0] = sum.x;
    v[1] = sum.y;
    v[2] = sum.z;
    v[3] = sum.w;
  }
};

}  // namespace fairway::kernels::cuda
