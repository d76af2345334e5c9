// What comes before and after the band kernels of a grouped call: the group table, the transformed inputs of the half
// paths, and the sum of a token's slots.
#pragma once

#include "kernels/common/cuda/hopper.cuh"
#include "kernels/trellis_band/cuda/transform.cuh"

namespace fairway::kernels::cuda {

constexpr int kPrepareThreads = 1024;
constexpr int kPrepareWarps = kPrepareThreads / 32;

struct GroupOutputs {
  int* segment_count;
  Segment* segments;
  int* order;
  int chunk;  // tokens of a segment, at most
  // For the wide path: experts begin at multiples of eight of `order`, and their segments are equally long but for the
  // last, and multiples of eight.
  bool even = false;
  int* places = nullptr;         // [slots]: where in `order` a slot is, or -1
  unsigned* counters = nullptr;  // [2], set to zero
};

__device__ __forceinline__ int round_up_to_8(int n) {
  return (n + 7) / 8 * 8;
}

// Two running sums over the threads of the CTA, exclusive. `carry` is [kPrepareWarps] of shared memory.
__device__ inline int2 exclusive_sum(int2 own, int2* carry) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  int2 sum = own;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const int x = __shfl_up_sync(0xFFFFFFFFu, sum.x, d), y = __shfl_up_sync(0xFFFFFFFFu, sum.y, d);
    if (lane >= d) sum = make_int2(sum.x + x, sum.y + y);
  }
  if (lane == 31) carry[warp] = sum;
  __syncthreads();
  static_assert(kPrepareWarps == 32);
  const int2 other = lane < warp ? carry[lane] : make_int2(0, 0);
  return make_int2(__reduce_add_sync(0xFFFFFFFFu, other.x) + sum.x - own.x,
                   __reduce_add_sync(0xFFFFFFFFu, other.y) + sum.y - own.y);
}

// A stable counting sort of the routed slots by expert. Each warp owns a run of slots and a row of counts, so positions
// follow from sums and not from the order of arrival. counts: [kPrepareWarps][routed].
__device__ inline void group_slots(const BandArgs& a, const GroupOutputs& out, int* counts, int2* carry) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, experts = a.layer.routed, top_k = a.layer.top_k;
  const int slots = a.call.tokens * top_k;
  const int run = (slots + 32 * kPrepareWarps - 1) / (32 * kPrepareWarps) * 32;
  for (int i = threadIdx.x; i < kPrepareWarps * experts; i += kPrepareThreads) counts[i] = 0;
  __syncthreads();
  int* own = counts + warp * experts;
  const auto expert_of = [&](int i) {
    const int id = i < slots ? a.call.ids[i] : -1;
    return id >= 0 && id < experts ? id : -1;
  };
  // visit(slot, expert) for the warp's slots, 32 at a time; some are read ahead.
  const auto for_each_slot = [&](const auto& visit) {
    constexpr int kAhead = 4;
    const int end = (warp + 1) * run;
    for (int first = warp * run; first < end; first += 32 * kAhead) {
      int found[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) found[i] = first + 32 * i < end ? expert_of(first + 32 * i + lane) : -1;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (first + 32 * i < end) visit(first + 32 * i + lane, found[i]);
      }
    }
  };
  for_each_slot([&](int, int expert) {
    const unsigned same = __match_any_sync(0xFFFFFFFFu, expert);
    if (expert >= 0 && __ffs(same) - 1 == lane) own[expert] += __popc(same);
    __syncwarp();
  });
  __syncthreads();

  const int e = threadIdx.x;
  int total = 0;
  if (e < experts) {
#pragma unroll 8
    for (int w = 0; w < kPrepareWarps; ++w) total += counts[w * experts + e];
  }
  const int chunks = (total + out.chunk - 1) / out.chunk;
  const int size = out.even ? round_up_to_8((total + chunks - 1) / max(chunks, 1)) : out.chunk;
  const int2 before = exclusive_sum(make_int2(out.even ? round_up_to_8(total) : total, chunks), carry);
  const int shared_chunks = (a.call.tokens + out.chunk - 1) / out.chunk;
  const int shared_pitch = out.even ? round_up_to_8(a.call.tokens) : a.call.tokens;
  const int shared_size =
      out.even ? round_up_to_8((a.call.tokens + shared_chunks - 1) / max(shared_chunks, 1)) : out.chunk;
  const int shared_slots = a.layer.shared * shared_pitch;
  if (e < experts) {
    int place = shared_slots + before.x;
#pragma unroll 8
    for (int w = 0; w < kPrepareWarps; ++w) {
      const int n = counts[w * experts + e];
      counts[w * experts + e] = place;
      place += n;
    }
    for (int c = 0; c < chunks; ++c) {
      out.segments[a.layer.shared * shared_chunks + before.y + c] = {e, shared_slots + before.x + c * size,
                                                                     min(size, total - c * size)};
    }
  }
  if (e == kPrepareThreads - 1) *out.segment_count = a.layer.shared * shared_chunks + before.y + chunks;
  __syncthreads();

  for_each_slot([&](int i, int expert) {
    const unsigned same = __match_any_sync(0xFFFFFFFFu, expert);
    const int slot = i / max(top_k, 1) * a.slots_per_token + i % max(top_k, 1);
    const int place = expert >= 0 ? own[expert] + __popc(same & ((1u << lane) - 1)) : -1;
    if (expert >= 0) out.order[place] = slot;
    if (out.places != nullptr && i < slots) out.places[slot] = place;
    __syncwarp();
    if (expert >= 0 && __ffs(same) - 1 == lane) own[expert] += __popc(same);
    __syncwarp();
  });
  // Shared experts have every token; their segments come first, being the longest.
  for (int i = threadIdx.x; i < a.layer.shared * a.call.tokens; i += kPrepareThreads) {
    const int place = i / a.call.tokens * shared_pitch + i % a.call.tokens;
    const int slot = i % a.call.tokens * a.slots_per_token + top_k + i / a.call.tokens;
    out.order[place] = slot;
    if (out.places != nullptr) out.places[slot] = place;
  }
  for (int i = threadIdx.x; i < a.layer.shared * shared_chunks; i += kPrepareThreads) {
    const int begin = i % shared_chunks * shared_size, s = i / shared_chunks;
    out.segments[i] = {experts + s, s * shared_pitch + begin, min(shared_size, a.call.tokens - begin)};
  }
  if (out.counters != nullptr && threadIdx.x < 2) out.counters[threadIdx.x] = 0;
}

// rows[input_row] = transformed inputs of the half paths, one warp a block.
__device__ inline void transform_rows(const BandArgs& a, __half* rows, int first_warp, int warps) {
  const int lane = threadIdx.x & 31, blocks = a.layer.hidden / kBand;
  const bool common = a.layer.common_suh != nullptr;
  const int count = common ? a.call.tokens : 2 * a.call.tokens * a.slots_per_token;
  for (long long unit = first_warp; unit < static_cast<long long>(count) * blocks; unit += warps) {
    const int row = static_cast<int>(unit / blocks), k = static_cast<int>(unit % blocks) * kBand;
    const __half* suh = a.layer.common_suh;
    if (!common) {
      const int expert = slot_expert(a, row / 2);
      if (expert < 0) continue;
      suh = row % 2 == 0 ? a.layer.experts[expert].gate.suh : a.layer.experts[expert].up.suh;
    }
    const long long token = common ? row : row / 2 / a.slots_per_token;
    float v[4];
    transform_input(a.call.x + token * a.call.ldx + k + 4 * lane, suh + k + 4 * lane, v);
    store_fragment_order(rows + static_cast<std::size_t>(row) * a.layer.hidden + k, v);
  }
}

// Block 0 groups; the others transform. rows = null: nothing to transform.
__global__ void __launch_bounds__(kPrepareThreads, 1)
    prepare_kernel(const __grid_constant__ BandArgs a, GroupOutputs out, __half* rows) {
  int* const counts = dynamic_shared<int>();
  __shared__ int2 carry[kPrepareWarps];
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (blockIdx.x == 0) {
    group_slots(a, out, counts, carry);
  } else {
    transform_rows(a, rows, static_cast<int>(blockIdx.x - 1) * kPrepareWarps + static_cast<int>(threadIdx.x >> 5),
                   static_cast<int>(gridDim.x - 1) * kPrepareWarps);
  }
}

// y[t] = sum of the token's slots, in slot order.
__global__ void __launch_bounds__(256) sum_slots_kernel(const __grid_constant__ BandArgs a) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int quads = a.layer.hidden / 4;
  const long long i = static_cast<long long>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= static_cast<long long>(a.call.tokens) * quads) return;
  const int token = static_cast<int>(i / quads), quad = static_cast<int>(i % quads);
  float4 sum = make_float4(0, 0, 0, 0);
  for (int j = 0; j < a.slots_per_token; ++j) {
    const int slot = token * a.slots_per_token + j;
    if (slot_expert(a, slot) < 0) continue;
    const float4 v =
        reinterpret_cast<const float4*>(a.slot_out + static_cast<std::size_t>(slot) * a.layer.hidden)[quad];
    sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
  }
  reinterpret_cast<float4*>(a.call.y + token * a.call.ldy)[quad] = sum;
}

}  // namespace fairway::kernels::cuda
