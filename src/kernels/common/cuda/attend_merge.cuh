// Merging the results of parts of a query's positions.
#pragma once

#include <cuda_fp16.h>

#include "kernels/common/cuda/attend_args.cuh"
#include "kernels/common/cuda/hopper.cuh"

namespace fairway::kernels::cuda {

// The largest of a query's weights. All lanes of a warp call it.
__device__ __forceinline__ float largest_weight(const float* weights, int used) {
  float most = -__builtin_huge_valf();
  for (int s = static_cast<int>(threadIdx.x) % 32; s < used; s += 32) most = fmaxf(most, weights[s]);
  for (int d = 1; d < 32; d *= 2) most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, d));
  return most;
}

// sum: of 8 values over the splits first, first + step ..., each times 2^(its weight - most). total: of these factors.
// partial: the values of split 0, `stride` elements between splits. kBatch loads are under way at a time.
template <int kBatch>
__device__ __forceinline__ void merge_splits(const __half* partial, int stride, const float* weights, int used,
                                             float most, int first, int step, float (&sum)[8], float& total) {
  for (int begin = first; begin < used; begin += kBatch * step) {
    uint4 pairs[kBatch];
    float factor[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch;
         ++i) {  // what is beyond the last is read from there, so that no load waits for a branch
      const int s = min(begin + i * step, used - 1);
      factor[i] = weights[s];
      pairs[i] = *reinterpret_cast<const uint4*>(partial + static_cast<long long>(s) * stride);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      factor[i] = begin + i * step < used ? power_of_two(factor[i] - most) : 0.0f;
      total += factor[i];
      const unsigned words[4] = {pairs[i].x, pairs[i].y, pairs[i].z, pairs[i].w};
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const float2 v = __half22float2(*reinterpret_cast<const __half2*>(&words[w]));
        sum[2 * w] += factor[i] * v.x;
        sum[2 * w + 1] += factor[i] * v.y;
      }
    }
  }
}

// Four sums over kParts parts, each times 2^(its largest score - most). part(i): that score, and the sum of the part's
// factors, which is added to total likewise; value(i): the part's four sums.
template <int kParts, class Part, class Value>
__device__ __forceinline__ float4 merge_parts(float most, const Part& part, const Value& value, float& total) {
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    const float2 of_part = part(i);
    const float factor = power_of_two(of_part.x - most);
    const float4 v = value(i);
    total = fmaf(factor, of_part.y, total);
    sum.x = fmaf(factor, v.x, sum.x), sum.y = fmaf(factor, v.y, sum.y);
    sum.z = fmaf(factor, v.z, sum.z), sum.w = fmaf(factor, v.w, sum.w);
  }
  return sum;
}

}  // namespace fairway::kernels::cuda
