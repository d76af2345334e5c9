// The kernel for one row: from sums to outputs, by the warp whose turn it is.
#pragma once

#include "kernels/trellis_linear/cuda/linear_args.cuh"
#include "kernels/trellis_linear/cuda/linear_norm.cuh"

namespace fairway::kernels::cuda {

// A lane's four outputs of an item: where they go, what they are scaled by and added to.
struct OneFinish {
  float* y;
  int columns;   // that are written
  bool vectors;  // all four, aligned to 16 bytes
  uint2 svh;
  float old[4] = {};

  // The scales, long before they are needed: at the end they would come after all that the next kernel, which has
  // started by then, has asked for.
  static __device__ __forceinline__ uint2 scales(const LinearOutput& output, int column) {
    if (output.bias != nullptr && column < output.out_exact) prefetch_line(output.bias + column);
    return *reinterpret_cast<const uint2*>(output.matrix.svh + column);
  }
  __device__ __forceinline__ OneFinish(const LinearOutput& output, int column, uint2 scales)
      : y(output.y + column),
        columns(output.out_exact - column),
        vectors(columns >= 4 && (reinterpret_cast<std::size_t>(y) & 15) == 0),
        svh(scales) {
    if (output.bias != nullptr) add(output.bias + column);
    if (output.add) add(y);
  }
  __device__ __forceinline__ void add(const float* values) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < columns) old[i] += values[i];
    }
  }
  // v: sums of four columns before the transform.
  __device__ __forceinline__ void store(const LinearArgs& a, const float* row_squares, float (&v)[4]) const {
    float squares = 0, factor = 1.0f;
    const bool norms = a.call.norm.x != nullptr;
    if (norms) {
#pragma unroll 1
      for (int i = threadIdx.x & 31; i < a.call.in / kBand; i += 32) squares += row_squares[i];
    }
    hadamard128_and_sum(v, squares);
    if (norms) factor = norm_factor(a.call.norm, squares);
    const float2 low = __half22float2(as_half2(svh.x)), high = __half22float2(as_half2(svh.y));
    v[0] = fmaf(v[0] * factor, low.x, old[0]);
    v[1] = fmaf(v[1] * factor, low.y, old[1]);
    v[2] = fmaf(v[2] * factor, high.x, old[2]);
    v[3] = fmaf(v[3] * factor, high.y, old[3]);
    if (vectors) {
      *reinterpret_cast<float4*>(y) = make_float4(v[0], v[1], v[2], v[3]);
      return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < columns) y[i] = v[i];
    }
  }
};

// Where a lane's sum is among those of its CTA.
__device__ __forceinline__ int place_of_sum() {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  return warp * 16 + (lane >> 2) + 8 * (lane & 1);
}

// The sums of all CTAs of the cluster, of a lane's four columns: read at once, a loop would wait for each of them.
__device__ __forceinline__ void add_gathered(const float* gathered, int split, float (&v)[4]) {
  gathered += 4 * (threadIdx.x & 31);
  float4 one[kMaxShares];
#pragma unroll
  for (int r = 0; r < kMaxShares; ++r) {
    one[r] = make_float4(0, 0, 0, 0);
    if (r < split) one[r] = *reinterpret_cast<const float4*>(gathered + r * kBand);
  }
  v[0] = v[1] = v[2] = v[3] = 0;
#pragma unroll
  for (int r = 0; r < kMaxShares; ++r) {
    v[0] += one[r].x;
    v[1] += one[r].y;
    v[2] += one[r].z;
    v[3] += one[r].w;
  }
}

}  // namespace fairway::kernels::cuda
