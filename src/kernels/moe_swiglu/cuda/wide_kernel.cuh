// The wide kernel of the expert layer: many tokens of an expert share a decode. CTAs take items one after the other,
// the long segments first; which CTA computes an item changes nothing about its result.
#pragma once

#include "kernels/moe_swiglu/cuda/wide_args.cuh"
#include "kernels/trellis_band/cuda/work_queue.cuh"

namespace fairway::kernels::cuda {

struct alignas(16) WideMoeShared {
  RingBarriers barriers;
  WorkQueue queue;
  WideSums sums;
};

__device__ __forceinline__ WideLoader wide_loader(const WideArgs& a, const WideItem& item) {
  WideLoader loader;
  for (int half = 0; half < kWideHalves; ++half) {
    const WideHalf h = get_wide_half(a, item, half);
    if (h.matrix != nullptr) loader.set_words(a.stage, half, *h.matrix, h.out, h.band, 0);
  }
  for (int set = 0; set < a.stage.input_sets; ++set) {
    const std::size_t set_size = static_cast<std::size_t>(a.places) * static_cast<unsigned>(a.layer.hidden);
    loader.set_inputs(set, a.down ? a.hidden : a.rows + static_cast<unsigned>(set) * set_size, a.places, item.begin,
                      item.count, 0);
  }
  loader.add_up();
  return loader;
}

// Words may be fetched while the previous kernel still runs. The segments were written before that.
__device__ __forceinline__ void load_wide_items(const WideArgs& a, RingCursor ring, QueueCursor queue) {
  const int items = *a.groups.segment_count * wide_items_of_segment(a);
  bool first = true;
  for (;;) {
    int index = 0;
    if ((threadIdx.x & 31) == 0) index = static_cast<int>(atomicAdd(a.next_item, 1u));
    index = min(__shfl_sync(0xFFFFFFFFu, index, 0), items);
    queue.put(index);
    if (index == items) break;
    const WideItem item = get_wide_item(a, index);
    if (item.count == 0) continue;
    WideLoader loader = wide_loader(a, item);
    const int stages = wide_stages(a, item);
    int done = 0;
    if (first) {
      first = false;
      done = loader.load_ahead(ring, stages);
      wait_for_previous_kernel();
    }
    loader.load(ring, done, stages);
  }
}

// Four rows a warp: lane l the part l % 8 of row l / 8.
__device__ __forceinline__ void finish_wide_gate_up(const WideArgs& a, const WideItem& item, int first,
                                                    const WideSums& sums) {
  const int thread = hidden_thread(), warp = thread >> 5, lane = thread & 31;
  const int row = first + 4 * warp + lane / 8, column = item.band * kBand;
  if (first + 4 * warp >= item.count) return;
  float gate[kOctetElements], up[kOctetElements];
  load_octet(sums.values[0][row - first], lane, gate);
  load_octet(sums.values[1][row - first], lane, up);
  hadamard128_by_octet(gate);
  hadamard128_by_octet(up);
  scale_octet(gate, item.expert->gate.svh + column, lane);
  scale_octet(up, item.expert->up.svh + column, lane);
#pragma unroll
  for (int i = 0; i < kOctetElements; ++i) up[i] *= gate[i] / (1.0f + __expf(-gate[i]));
  scale_octet(up, item.expert->down.suh + column, lane);
  hadamard128_by_octet(up);
  if (row >= item.count) return;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    *panel_place(a.hidden, a.places, item.begin + row, column + octet_element(lane, i)) =
        to_half4(up[4 * i], up[4 * i + 1], up[4 * i + 2], up[4 * i + 3]);
  }
}

__device__ __forceinline__ void finish_wide_down(const WideArgs& a, const WideItem& item, int first,
                                                 const WideSums& sums) {
  const int thread = hidden_thread(), warp = thread >> 5, lane = thread & 31;
  const int row = first + 4 * warp + lane / 8;
  if (first + 4 * warp >= item.count) return;
  const bool exists = row < item.count;
  const int slot = exists ? a.groups.order[item.begin + row] : 0;
  const float weight = exists ? slot_weight(a, slot) : 0.0f;
#pragma unroll 1
  for (int half = 0; half < kWideHalves; ++half) {
    const WideHalf h = get_wide_half(a, item, half);
    if (h.matrix == nullptr) break;
    float v[kOctetElements];
    load_octet(sums.values[half][row - first], lane, v);
    hadamard128_by_octet(v);
    scale_octet(v, h.matrix->svh + h.band * kBand, lane);
    if (!exists) continue;
    float* const out = a.slot_out + static_cast<std::size_t>(slot) * a.layer.hidden + h.band * kBand;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      *reinterpret_cast<float4*>(out + octet_element(lane, i)) =
          make_float4(v[4 * i] * weight, v[4 * i + 1] * weight, v[4 * i + 2] * weight, v[4 * i + 3] * weight);
    }
  }
}

// The sums of this team's share of an item; false if there is nothing to do. What it knows of the item it forgets: the
// loop needs the registers.
template <bool kAllMul1>
__device__ __forceinline__ bool multiply_wide_item(const WideArgs& a, int index, RingCursor& ring,
                                                   float (&acc)[kWgmmaSums]) {
  const WideItem item = get_wide_item(a, index);
  if (item.count == 0) return false;
  const WideHalf half = get_wide_half(a, item, wide_half());
  const int stages = wide_stages(a, item);
  if (half.matrix == nullptr) {
    skip_stages(ring, stages);
  } else {
    multiply_wide<kAllMul1>(ring, *half.matrix, stages, item.count, wide_operands(a.stage, half.matrix->bits), acc);
  }
  return true;
}

template <bool kAllMul1>
__device__ __forceinline__ void compute_wide_items(const WideArgs& a, RingCursor ring, QueueCursor queue,
                                                   WideSums& sums) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int items = *a.groups.segment_count * wide_items_of_segment(a);
  for (int index = queue.get(); index != items; index = queue.get()) {
    float acc[kWgmmaSums];
    if (!multiply_wide_item<kAllMul1>(a, index, ring, acc)) continue;
    const WideItem item = get_wide_item(a, index);
#pragma unroll 1
    for (int first = 0; first < item.count; first += kWideRound) {
      store_wide_sums(acc, sums);
      consumer_sync<kWideComputeThreads>();
      if (a.down) {
        finish_wide_down(a, item, first, sums);
      } else {
        finish_wide_gate_up(a, item, first, sums);
      }
      consumer_sync<kWideComputeThreads>();
    }
  }
}

template <bool kAllMul1>
__global__ void __launch_bounds__(kWideCtaThreads, 1) wide_moe_kernel(const __grid_constant__ WideArgs a) {
  unsigned char* const memory = aligned_shared();
  auto& shared = *reinterpret_cast<WideMoeShared*>(memory + a.ring_stages * a.stage.bytes());
  if (threadIdx.x == 0) {
    ring_init(&shared.barriers, a.ring_stages, kWideWarps);
    queue_init(&shared.queue, kWideWarps);
  }
  __syncthreads();
  const RingCursor ring{memory, &shared.barriers, a.ring_stages, a.stage.bytes()};
  if (threadIdx.x >= kWideComputeThreads) {
    give_registers<32>();
    if (threadIdx.x < kWideComputeThreads + 32) load_wide_items(a, ring, {&shared.queue});
  } else {
    take_registers<112>();
    compute_wide_items<kAllMul1>(a, ring, {&shared.queue}, shared.sums);
  }
}

}  // namespace fairway::kernels::cuda
