// A CTA has one row and one head of the query: it rotates that, makes the row's own key and value again, for itself,
// and meets the positions of the cache, half a warp each at a time.
#pragma once

#include <cuda_fp16.h>

#include "kernels/attention_gqa/cuda/gqa_decode.cuh"
#include "kernels/common/cuda/cache_write.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/lanes_attend.cuh"
#include "kernels/common/cuda/reduce.cuh"
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
  static constexpr int kStride = kGqaDim + 4;  // of groups: eight lanes that read a group each have banks of their own
  float query[kGqaDim];                        // times the scale of scores
  unsigned char new_row[4 * kGqaDim];          // key, then value, as in the cache
  float sums[kGqaGroups][kStride];
  float2 statistics[kGqaGroups];  // largest score, sum of factors
};

// The CTA's outputs from the sums of its groups: a warp has 16 of them, half of the lanes 8, a lane a group's.
__device__ __forceinline__ void merge_groups(const GqaDecodeMemory& memory, int dim, __half* out) {
  static_assert(kGqaGroups == 16 && kGqaDim == 16 * kGqaWarps && kCachePiece == 8);
  const int group = static_cast<int>(threadIdx.x % kGqaGroups);
  const int first = static_cast<int>(threadIdx.x / kGqaGroups * kCachePiece);
  if (first >= dim) return;  // of the whole warp: dim is a multiple of 16
  const float2 of_group = memory.statistics[group];
  const auto* const from = reinterpret_cast<const float4*>(&memory.sums[group][first]);
  const float4 low = from[0], high = from[1];
  float most = of_group.x;
#pragma unroll
  for (int d = kGqaGroups / 2; d > 0; d /= 2) most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, d));
  const float factor = power_of_two(of_group.x - most);
  float total = factor * of_group.y;
  float v[kCachePiece] = {factor * low.x,  factor * low.y,  factor * low.z,  factor * low.w,
                          factor * high.x, factor * high.y, factor * high.z, factor * high.w};
#pragma unroll
  for (int d = kGqaGroups / 2; d > 0; d /= 2) total += __shfl_xor_sync(0xFFFFFFFFu, total, d);
  const float sum = spread_sum<kGqaGroups>(v);
  constexpr int kSame = kGqaGroups / kCachePiece;  // lanes with the same sum
  if (group % kSame == 0) out[first + group / kSame] = __float2half_rn(sum * __fdividef(1.0f, total));
}

// kDim: what dim and angles.dim are, of halves, so that code has it as a constant; 0: anything.
template <CacheType kType, int kDim>
class GqaDecodeCta {
  using Attend = LanesAttend<kType, kGqaLanes, 1, 1, false, kGqaBatch>;
  static constexpr int kElem = CachePiece<kType>::kBytes / kCachePiece;
  // Warp 0 makes the query, the last one the key, and the one before it the value.
  static constexpr int kKeyWarp = kGqaWarps - 1, kValueWarp = kGqaWarps - 2;

 public:
  // Blocks: query head of a key/value head, key/value head, row.
  __device__ __forceinline__ explicit GqaDecodeCta(const GqaDecodeArgs& args)
      : args_(args),
        a_(with_dim(args.prepare)),
        memory_(*dynamic_shared<GqaDecodeMemory>()),
        warp_(static_cast<int>(threadIdx.x / 32)),
        kv_head_(static_cast<int>(blockIdx.y)),
        head_(static_cast<int>(blockIdx.y * gridDim.x + blockIdx.x)),
        row_(blockIdx.z) {}

  __device__ __forceinline__ void run() {
    const int position = a_.rows.position[row_], sequence = a_.rows.sequence[row_];
    const bool there = sequence >= 0 && position >= 0 && position < a_.cache.sequence_rows;
    const int row_bytes = a_.cache.row_elems * kElem, pieces = a_.dim / kCachePiece;
    const long long first = there ? static_cast<long long>(sequence) * a_.cache.sequence_rows * row_bytes : 0;
    unsigned char* const head = static_cast<unsigned char*>(a_.cache.data) + first + kv_head_ * a_.dim * kElem;
    const int values = a_.kv_heads * a_.dim * kElem;  // bytes from a key to its value
    Attend attend;
    attend.start({head, row_bytes, values, pieces, pieces, there ? position : 0}, warp_ * Attend::kGroups, kGqaGroups);
    prepare(position);
    __syncthreads();
    attend.run(memory_.query, memory_.new_row, a_.dim * kElem);
    leave_sums(attend);
    __syncthreads();
    merge_groups(memory_, a_.dim,
                 args_.out + (row_ * static_cast<unsigned>(a_.heads) + static_cast<unsigned>(head_)) *
                                 static_cast<unsigned>(a_.dim));
    if (blockIdx.x == 0 && there) keep_row(head + static_cast<long long>(position) * row_bytes, values);
  }

 private:
  __device__ __forceinline__ static GqaPrepare with_dim(GqaPrepare call) {
    if constexpr (kDim > 0) {
      call.dim = call.angles.dim = kDim;
      call.angles.layout = RopeLayout::kHalves;
    }
    return call;
  }

  // Of a head in a row of few rows.
  __device__ __forceinline__ unsigned offset(long long ld, int head) const {
    return row_ * static_cast<unsigned>(ld) + static_cast<unsigned>(head * a_.dim);
  }

  __device__ __forceinline__ void prepare(int position) const {
    const bool is_short = is_short_head(a_), of_query = warp_ == 0, rotates = of_query || warp_ == kKeyWarp;
    const float factor = args_.scale_log2;
    const float* const norm = of_query ? a_.q_norm : a_.k_norm;
    const CacheRow<kType> key(memory_.new_row), value(memory_.new_row + a_.dim * kElem);
    const auto store = [&](int i, float v) {
      if (of_query) {
        memory_.query[i] = v * factor;
      } else {
        key.store(i, v);
      }
    };
    if (rotates) {
      Rotation rotation(a_.angles, position);
      const HeadWeights weights = is_short ? HeadWeights(a_, rotation, norm) : HeadWeights();
      start();
      const float* const x = of_query ? a_.q + offset(a_.ldq, head_) : a_.k + offset(a_.ldk, kv_head_);
      if (is_short) {
        prepare_short_head(a_, rotation, x, norm != nullptr, weights, store);
      } else {
        prepare_long_head(a_, rotation, x, norm, store);
      }
      return;
    }
    start();
    if (warp_ != kValueWarp) return;
    const float* const v = a_.v + offset(a_.ldv, kv_head_);
    copy_elements<4>(
        a_.dim, [&](int i) { return v[i]; }, [&](int i, float x) { value.store(i, x); });
  }
  __device__ __forceinline__ static void start() {
    wait_for_previous_kernel();
    let_next_kernel_start();
  }

  __device__ __forceinline__ void leave_sums(const Attend& attend) const {
    const unsigned lane = threadIdx.x % kGqaLanes, group = threadIdx.x / kGqaLanes;
    auto* const to = reinterpret_cast<float4*>(&memory_.sums[group][kCachePiece * lane]);
    const float(&v)[kCachePiece] = attend.sum[0];
    to[0] = make_float4(v[0], v[1], v[2], v[3]);
    to[1] = make_float4(v[4], v[5], v[6], v[7]);
    if (lane == 0) memory_.statistics[group] = make_float2(attend.most, attend.total);
  }

  // The row to the cache, when nobody waits for it.
  __device__ __forceinline__ void keep_row(unsigned char* to, int values) const {
    const int bytes = a_.dim * kElem, at = 16 * static_cast<int>(threadIdx.x);
    if (at >= 2 * bytes) return;
    *reinterpret_cast<uint4*>(to + (at < bytes ? at : at - bytes + values)) =
        *reinterpret_cast<const uint4*>(memory_.new_row + at);
  }

  const GqaDecodeArgs& args_;
  const GqaPrepare a_;
  GqaDecodeMemory& memory_;
  const int warp_, kv_head_, head_;
  const unsigned row_;
};

template <CacheType kType, int kDim>
__global__ void __maxnreg__(104) gqa_decode_kernel(const __grid_constant__ GqaDecodeArgs args) {
  GqaDecodeCta<kType, kDim>(args).run();
}

}  // namespace fairway::kernels::cuda
