// A CTA has one row and one head of the query: it rotates that, makes the row's own key and value again, for itself,
// and meets the positions of the cache, half a warp each at a time.
#pragma once

#include <cuda_fp16.h>

#include "kernels/attention_gqa/cuda/gqa_decode.cuh"
#include "kernels/common/cuda/cache_write.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/lanes_attend.cuh"
#include "kernels/rope/cuda/prepare_head.cuh"
#include "kernels/rope/cuda/rotation.cuh"

namespace fairway::kernels::cuda {

constexpr int kGqaWarps = 8, kGqaThreads = 32 * kGqaWarps;
constexpr int kGqaLanes = 16;                     // of a position
constexpr int kGqaDim = kCachePiece * kGqaLanes;  // most elements of a head
constexpr int kGqaGroups = kGqaThreads / kGqaLanes;
constexpr int kGqaBatch = 4;

struct GqaDecodeArgs {
  GqaPrepare prepare;
  float scale_log2;
  __half* out;  // [rows, heads, dim]
};
inline GqaDecodeArgs gqa_decode_args(const GqaAttention& call) {
  return {call.prepare, call.attend.scale * kLog2E, call.attend.out};
}

struct alignas(16) GqaDecodeMemory {
  float query[kGqaDim];                // times the scale of scores
  unsigned char new_row[4 * kGqaDim];  // key, then value, as in the cache
  float sums[kGqaGroups][kGqaDim];
  float2 statistics[kGqaGroups];  // largest score, sum of factors
};

template <CacheType kType>
__global__ void __launch_bounds__(kGqaThreads) gqa_decode_kernel(const __grid_constant__ GqaDecodeArgs args) {
  using Attend = LanesAttend<kType, kGqaLanes, 1, 1, false, kGqaBatch>;
  constexpr int kElem = CachePiece<kType>::kBytes / kCachePiece;
  auto& memory = *dynamic_shared<GqaDecodeMemory>();
  const GqaPrepare& a = args.prepare;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, head = static_cast<int>(blockIdx.x);
  const long long r = blockIdx.y;
  const int group = a.heads / a.kv_heads, kv_head = head / group;
  const int position = a.rows.position[r], sequence = a.rows.sequence[r];
  const bool there = sequence >= 0 && position >= 0 && position < a.cache.sequence_rows;
  const int row_bytes = a.cache.row_elems * kElem;
  const int pieces = a.dim / kCachePiece;

  Attend attend;
  attend.start(
      {static_cast<const unsigned char*>(a.cache.data) +
           (there ? static_cast<long long>(sequence) * a.cache.sequence_rows * row_bytes : 0) + kv_head * a.dim * kElem,
       row_bytes, a.kv_heads * a.dim * kElem, pieces, pieces, there ? position : 0},
      warp * Attend::kGroups, kGqaGroups);
  Rotation rotation(a.angles, position);
  wait_for_previous_kernel();
  let_next_kernel_start();

  // Warp 0 makes the query, the last one the key, and the one before it the value.
  if (warp == 0) {
    prepare_head(a, rotation, a.q + r * a.ldq + static_cast<long long>(head) * a.dim, a.q_norm,
                 [&](int i, float v) { memory.query[i] = v * args.scale_log2; });
  } else if (warp >= kGqaWarps - 2) {
    const bool stores = head % group == 0, key = warp == kGqaWarps - 1;
    const int at = kv_head * a.dim, first = (key ? 0 : a.kv_heads * a.dim) + at;  // in the cache's row
    const CacheRow<kType> here(memory.new_row + (key ? 0 : a.dim * kElem));
    const CacheRow<kType> cached = stores ? CacheRow<kType>(a.cache, sequence, position) : CacheRow<kType>(nullptr);
    const auto store = [&](int i, float v) {
      here.store(i, v);
      cached.store(first + i, v);
    };
    if (key) {
      prepare_head(a, rotation, a.k + r * a.ldk + at, a.k_norm, store);
    } else {
      const float* const v = a.v + r * a.ldv + at;
      copy_elements<4>(
          a.dim, [&](int i) { return v[i]; }, store);
    }
  }
  __syncthreads();
  attend.run(memory.query, warp == kGqaWarps - 1 ? memory.new_row : nullptr, a.dim * kElem);

  const int lane = thread % kGqaLanes;
  auto* const to = reinterpret_cast<float4*>(&memory.sums[thread / kGqaLanes][kCachePiece * lane]);
  const float(&v)[kCachePiece] = attend.sum[0];
  to[0] = make_float4(v[0], v[1], v[2], v[3]);
  to[1] = make_float4(v[4], v[5], v[6], v[7]);
  if (lane == 0) memory.statistics[thread / kGqaLanes] = make_float2(attend.most, attend.total);
  __syncthreads();
  if (2 * thread >= a.dim) return;
  float most = kNoScore, total = 0, low = 0, high = 0;
#pragma unroll 4
  for (int g = 0; g < kGqaGroups; ++g) most = fmaxf(most, memory.statistics[g].x);
#pragma unroll 4
  for (int g = 0; g < kGqaGroups; ++g) {
    const float2 of_group = memory.statistics[g];
    const float factor = power_of_two(of_group.x - most);
    const float2 two = *reinterpret_cast<const float2*>(&memory.sums[g][2 * thread]);
    total = fmaf(factor, of_group.y, total);
    low = fmaf(factor, two.x, low);
    high = fmaf(factor, two.y, high);
  }
  const float inverse = __fdividef(1.0f, total);
  *reinterpret_cast<__half2*>(args.out + (r * a.heads + head) * a.dim + 2 * thread) =
      __floats2half2_rn(low * inverse, high * inverse);
}

}  // namespace fairway::kernels::cuda
