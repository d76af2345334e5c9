// The wide kernel of the expert layer: many tokens of an expert share a decode. CTAs take items one after the other,
// the long segments first; which CTA computes an item changes nothing about its result.
#pragma once

#include "kernels/common/cuda/hidden.cuh"
#include "kernels/moe_swiglu/cuda/wide_args.cuh"
#include "kernels/trellis_band/cuda/work_queue.cuh"

namespace fairway::kernels::cuda {

struct alignas(16) WideMoeShared {
  RingBarriers barriers;
  WorkQueue<WideTask> queue;
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

__device__ __forceinline__ void copy_scales(float* to, const __half* from) {
  const int k = 4 * static_cast<int>(threadIdx.x & 31);
  float v[4];
  load_half4(from + k, v);
  *reinterpret_cast<float4*>(to + k) =
      make_float4(v[0] * kHadamardScale, v[1] * kHadamardScale, v[2] * kHadamardScale, v[3] * kHadamardScale);
}

__device__ __forceinline__ void fill_in_task(const WideArgs& a, const WideItem& item, WideTask& task) {
  const int lane = static_cast<int>(threadIdx.x & 31);
#pragma unroll 1
  for (int half = 0; half < kWideHalves; ++half) {
    const WideHalf h = get_wide_half(a, item, half);
    if (h.matrix != nullptr) copy_scales(task.scales[half], h.matrix->svh + h.band * kBand);
    if (lane > 0) continue;
    task.bits[half] = h.matrix != nullptr ? h.matrix->bits : 0;
    task.codebook[half] = h.matrix != nullptr ? h.matrix->codebook : 0;
  }
  if (!a.down) copy_scales(task.scales[2], item.expert->down.suh + item.band * kBand);
#pragma unroll 1
  for (int i = lane; a.down && i < item.count; i += 32) {
    const int slot = a.groups.order[item.begin + i];
    task.slots[i] = slot;
    task.weights[i] = slot_weight(a, slot);
  }
  if (lane > 0) return;
  task.count = item.count;
  task.begin = item.begin;
  task.band = item.band;
  task.stages = wide_stages(a, item);
}

// Words may be fetched while the previous kernel still runs. The segments were written before that.
__device__ __forceinline__ void load_wide_items(const WideArgs& a, RingCursor ring, QueueCursor<WideTask> queue) {
  const int items = *a.groups.segment_count * wide_items_of_segment(a);
  bool first = true;
#pragma unroll 1
  for (;;) {
    int index = 0;
    if ((threadIdx.x & 31) == 0) index = static_cast<int>(atomicAdd(a.next_item, 1u));
    index = __shfl_sync(0xFFFFFFFFu, index, 0);
    if (index >= items) break;
    const WideItem item = get_wide_item(a, index);
    if (item.count == 0) continue;
    queue.begin_put();
    fill_in_task(a, item, queue.task());
    queue.end_put();
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
  queue.begin_put();
  if ((threadIdx.x & 31) == 0) queue.task().count = 0;
  queue.end_put();
}

// Four rows a warp: lane l the part l % 8 of row l / 8. first: the row of the item whose sums come first.
__device__ __forceinline__ void finish_wide_gate_up(const WideArgs& a, const WideTask& task, int first,
                                                    const WideSums& sums) {
  const int thread = hidden_thread(), warp = thread >> 5, lane = thread & 31, row = 4 * warp + lane / 8;
  if (first + 4 * warp >= task.count) return;
  float gate[kOctetElements], up[kOctetElements];
  load_octet(sums.values[0][row], lane, gate);
  hadamard128_by_octet(gate);
  scale_octet(gate, task.scales[0], lane);
#pragma unroll
  for (int i = 0; i < kOctetElements; ++i) gate[i] = __fdividef(gate[i], 1.0f + __expf(-gate[i]));
  __syncwarp();  // one transform after the other: both at once have too few registers
  load_octet(sums.values[1][row], lane, up);
  hadamard128_by_octet(up);
  scale_octet(up, task.scales[1], lane);
#pragma unroll
  for (int i = 0; i < kOctetElements; ++i) up[i] *= gate[i];
  scale_octet(up, task.scales[2], lane);
  hadamard128_by_octet(up);
  if (first + row >= task.count) return;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    *panel_place(a.hidden, a.places, task.begin + first + row, task.band * kBand + octet_element(lane, i)) =
        to_half4(up[4 * i], up[4 * i + 1], up[4 * i + 2], up[4 * i + 3]);
  }
}

__device__ __forceinline__ void finish_wide_down(const WideArgs& a, const WideTask& task, int first,
                                                 const WideSums& sums) {
  const int thread = hidden_thread(), warp = thread >> 5, lane = thread & 31, row = 4 * warp + lane / 8;
  if (first + 4 * warp >= task.count) return;
  const bool exists = first + row < task.count;
  const int slot = exists ? task.slots[first + row] : 0;
  const float weight = exists ? task.weights[first + row] : 0.0f;
  float* const out = a.slot_out + static_cast<std::size_t>(slot) * a.layer.hidden + task.band * kBand;
#pragma unroll 1
  for (int half = 0; half < kWideHalves; ++half) {
    if (task.bits[half] == 0) break;
    float v[kOctetElements];
    load_octet(sums.values[half][row], lane, v);
    hadamard128_by_octet(v);
    scale_octet(v, task.scales[half], lane);
    if (!exists) continue;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      *reinterpret_cast<float4*>(out + half * kBand + octet_element(lane, i)) =
          make_float4(v[4 * i] * weight, v[4 * i + 1] * weight, v[4 * i + 2] * weight, v[4 * i + 3] * weight);
    }
  }
}

template <bool kAllMul1>
__device__ __forceinline__ void compute_wide_items(const WideArgs& a, RingCursor ring, QueueCursor<WideTask> queue,
                                                   WideSums& sums) {
  wait_for_previous_kernel();
  let_next_kernel_start();
#pragma unroll 1
  for (;; queue.end_get()) {
    queue.begin_get();
    if (queue.task().count == 0) break;
    float acc[kWgmmaSums];
    {
      const WideTask& task = queue.task();
      const int bits = task.bits[wide_half()];
      if (bits == 0) {
        skip_stages(ring, task.stages);
      } else {
        multiply_wide<kAllMul1>(ring, {bits, task.codebook[wide_half()]}, task.stages, task.count,
                                wide_operands(a.stage, bits), acc);
      }
    }
    const WideTask& task = queue.task();
#pragma unroll 1
    for (int first = 0; first < task.count; first += kWideRound) {
      store_wide_sums(acc, sums);
      consumer_sync<kWideComputeThreads>();
      if (a.down) {
        finish_wide_down(a, task, first, sums);
      } else {
        finish_wide_gate_up(a, task, first, sums);
      }
      consumer_sync<kWideComputeThreads>();
    }
  }
}

template <bool kAllMul1>
__device__ __forceinline__ void run_wide_moe_cta(const WideArgs& a) {
  unsigned char* const memory = dynamic_shared<unsigned char>();
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

template <bool kAllMul1>
__global__ void __launch_bounds__(kWideCtaThreads, 1) wide_moe_kernel(const __grid_constant__ WideArgs a) {
  if constexpr (kCodeHasWgmma) {
    run_wide_moe_cta<kAllMul1>(a);
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
