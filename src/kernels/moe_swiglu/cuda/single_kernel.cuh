// The kernel that computes a call of one token in one launch; see single_args.cuh for how work is cut.
#pragma once

#include "kernels/moe_swiglu/cuda/single_input.cuh"
#include "kernels/moe_swiglu/cuda/stream_walk.cuh"

namespace fairway::kernels::cuda {

// A block of weights of the run: of gate and up those of unit 0, unit 1, ..., then of down. Group g of warps has blocks
// g, g + 4, g + 8, ...
struct SingleBlock {
  int unit, matrix, place;
  __device__ SingleBlock(const SingleMemory& m, int number) {
    const int of_gate_up = 2 * m.head().run.count;
    const bool down = number >= of_gate_up;
    unit = down ? number - of_gate_up : number >> 1;
    matrix = down ? 2 : number & 1;
    place = m.places()[unit];
  }
  __device__ int piece() const { return place >> 16; }
  __device__ int block() const { return place & 0xFFFF; }  // of the hidden size
};

// Asks for a block. One warp.
__device__ inline void single_load(const SingleArgs& a, const SingleMemory& m, int group, int number, int stage) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  const SingleBlock b(m, number);
  const SinglePiece& p = m.pieces()[b.piece()];
  const SingleSlot& s = m.head().slots[p.slot];
  const ExpertRef& e = a.layer.experts[s.expert];
  const int bits = single_bits(s, b.matrix), bytes = 2 * kBand * bits;
  const int out = b.matrix == 2 ? a.layer.hidden : s.bands * kBand;
  const int row = (b.matrix == 2 ? p.band : b.block()) * kBandTiles + lane, band = b.matrix == 2 ? b.block() : p.band;
  const unsigned char* words = b.matrix == 0 ? e.gate.words : b.matrix == 1 ? e.up.words : e.down.words;
  std::uint64_t* full = &m.head().full[group][stage];
  if (lane == 0) barrier_expect(full, kBandTiles * bytes);
  __syncwarp();
  if (lane < kBandTiles) {
    bulk_load(m.stage(group, stage) + lane * bytes,
              words + static_cast<std::size_t>(row) * static_cast<unsigned>(2 * out * bits) +
                  static_cast<unsigned>(band * bytes),
              bytes, full);
  }
}

// acc[i] += a warp's column of tiles times the digits of tile rows i, i + 2, ...
template <int kBits>
__device__ __forceinline__ void multiply_column(const LanePlace& place, const unsigned char* tiles,
                                                const unsigned char* digits, int (&acc)[2][1][4]) {
  const LaneStream<kBits> stream(place);
  constexpr int kRowBytes = kBandTiles * LaneStream<kBits>::kTileBytes;
  uint4 first = make_uint4(0, 0, 0, 0), second = first;
#pragma unroll
  for (int row = 0; row < kBandTiles; row += 2, tiles += 2 * kRowBytes, digits += 2 * kDigitRow) {
    first = *reinterpret_cast<const uint4*>(digits);
    second = *reinterpret_cast<const uint4*>(digits + kDigitRow);
    u32 x[8];
    load_windows<kBits>(stream, tiles, x);
    const u32 b0[1][4] = {{first.x, first.y, first.z, first.w}};
    multiply_tile<1>(x, b0, acc[0]);
    load_windows<kBits>(stream, tiles + kRowBytes, x);
    const u32 b1[1][4] = {{second.x, second.y, second.z, second.w}};
    multiply_tile<1>(x, b1, acc[1]);
  }
}

// A warp's 16 sums of a block, where lane % 4 == 0: columns lane / 4 and 8 more.
__device__ __forceinline__ float2 single_multiply(int bits, const LanePlace& place, const unsigned char* tiles,
                                                  const unsigned char* digits, float2 scale) {
  int acc[2][1][4] = {};
  switch (bits) {
#define FAIRWAY_CASE(bits)                            \
  case bits:                                          \
    multiply_column<bits>(place, tiles, digits, acc); \
    break;
    FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
  }
  int sum[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) sum[i] = acc[0][0][i] + acc[1][0][i];
  const auto value = [&](int high, int low) {
    return fmaf(scale.x, fmaf(128.0f, static_cast<float>(high), static_cast<float>(low)), scale.y);
  };
  return make_float2(value(sum[0], sum[1]), value(sum[2], sum[3]));
}

// Where a warp stands in its group's blocks.
struct SingleCursor {
  int number, stage = 0, parity = 0;
  int bits = 0;  // those that `place` is for
  LanePlace place;

  __device__ explicit SingleCursor(int group) : number(group), place(1, 0) {}
};

// A warp's blocks below `end`. Of gate and up the sums of a piece stay in shared memory, of down those of a unit go to
// the partial sums.
__device__ inline void single_walk(const SingleArgs& a, const SingleMemory& m, int end, bool down, SingleCursor& at) {
  const int lane = static_cast<int>(threadIdx.x & 31), warp = static_cast<int>(threadIdx.x >> 5);
  const int group = warp / kSingleGroupWarps, column = warp % kSingleGroupWarps;
  SingleShared& head = m.head();
  float2 total = make_float2(0, 0);
  int to = -1;
#pragma unroll 1
  for (; at.number < end; at.number += kSingleGroups) {
    const SingleWork work = m.works()[at.number];
    const int bits = work.facts & 15, input = work.facts >> 4;
    if (bits != at.bits) {
      at.bits = bits;
      at.place = LanePlace(bits, lane);
#pragma unroll
      for (int i = 0; i < 3; ++i) at.place.offset[i] += column * 32 * bits;
    }
    barrier_wait(&head.full[group][at.stage], at.parity);
    const float2 v =
        single_multiply(bits, at.place, m.stage(group, at.stage), m.digits(input) + (lane & 7) * 16, m.scales()[input]);
    if (work.to != to) {
      to = work.to;
      total = make_float2(0, 0);
    }
    total.x += v.x;
    total.y += v.y;
    if ((lane & 3) == 0) {
      float* const sums = (down ? a.partial : m.get<float>(0)) + to + 16 * column + (lane >> 2);
      sums[0] = total.x;
      sums[8] = total.y;
    }
    // The stage before this one is free when the group's slowest warp has left it, so it is filled again now: by one of
    // the warps in turn.
    const int before = at.stage == 0 ? a.ring_stages - 1 : at.stage - 1;
    const int next = at.number + kSingleGroups * (a.ring_stages - 1);
    if (next < 3 * head.run.count) {
      if (next < 3 * head.run.count - kSingleGroups) release_stage(&head.empty[group][at.stage]);
      if (at.number >= kSingleGroups && next / kSingleGroups % kSingleGroupWarps == column) {
        barrier_wait(&head.empty[group][before], at.parity ^ (at.stage == 0 ? 1 : 0));
        single_load(a, m, group, next, before);
      }
    }
    if (++at.stage == a.ring_stages) {
      at.stage = 0;
      at.parity ^= 1;
    }
  }
}

// Four neighbouring outputs of a slot a lane, still to be transformed: those of the slot's bands that are `sub` modulo
// `parts`. Waits for the CTAs that write them. One warp.
__device__ inline float4 single_sum_bands(const SingleArgs& a, const SingleMemory& m, int slot, int sub, int parts,
                                          int block) {
  const int lane = static_cast<int>(threadIdx.x & 31), hidden_blocks = a.hidden_blocks.value;
  const SingleShared& head = m.head();
  const SingleSlot& s = head.slots[slot];
  const auto unit = [&](int band) { return (s.first_band + band) * hidden_blocks + block; };
#pragma unroll 1
  for (int band = sub + parts * lane; band < s.bands; band += parts * 32) {
    wait_for_value(&stream_state.flags[static_cast<int>(Written::kDown)][head.run.length.quotient(unit(band))],
                   head.launch);
  }
  __syncwarp();
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 1
  for (int band = sub; band < s.bands; band += 4 * parts) {
    float4 v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[i] = make_float4(0, 0, 0, 0);
      if (band + i * parts >= s.bands) continue;
      const float* from = a.partial + static_cast<std::size_t>(unit(band + i * parts)) * kBand + 4 * lane;
      v[i] = __ldcg(reinterpret_cast<const float4*>(from));
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sum = add4(sum, v[i]);
  }
  return sum;
}

// The blocks of the output that CTA `index` adds up: the CTAs without units, or with a short run, come last.
__device__ __forceinline__ int single_first_block(int index) {
  return static_cast<int>(gridDim.x) - 1 - index;
}

// y = the sums over bands and slots, in their order.
__device__ inline void single_sum(const SingleArgs& a, const SingleMemory& m, int index) {
  const int warp = static_cast<int>(threadIdx.x >> 5), lane = static_cast<int>(threadIdx.x & 31);
  const int parts = a.parts.value, slot = a.parts.quotient(warp);
  float4* const rows = reinterpret_cast<float4*>(m.base);  // [warp][lane], where weights were
#pragma unroll 1
  for (int block = single_first_block(index); block < a.hidden_blocks.value; block += static_cast<int>(gridDim.x)) {
    const int expert = slot < a.slots ? m.head().slots[slot].expert : -1;
    const int part = warp - slot * parts;
    const bool leads = expert >= 0 && part == 0;
    uint2 svh = make_uint2(0, 0);
    float weight = 0;
    if (leads) {
      svh = *reinterpret_cast<const uint2*>(a.layer.experts[expert].down.svh + block * kBand + 4 * lane);
      weight = slot >= a.layer.top_k ? 1.0f : a.call.weights[slot];
    }
    if (slot < a.slots) rows[32 * warp + lane] = single_sum_bands(a, m, slot, part, parts, block);
    __syncthreads();
    if (leads) {
      float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 1
      for (int i = 0; i < parts; ++i) sum = add4(sum, rows[32 * (warp + i) + lane]);
      float v[4];
      to_array(sum, v);
      hadamard128(v);
      scale_by(v, svh);
      rows[32 * warp + lane] = make_float4(v[0] * weight, v[1] * weight, v[2] * weight, v[3] * weight);
    }
    __syncthreads();
    if (warp == 0) {
      float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 1
      for (int i = 0; i < a.slots; ++i) {
        if (m.head().slots[i].expert >= 0) sum = add4(sum, rows[32 * parts * i + lane]);
      }
      *reinterpret_cast<float4*>(a.call.y + block * kBand + 4 * lane) = sum;
    }
    __syncthreads();
  }
}

// Vectors that are read later, so that they wait in the L2 cache.
__device__ inline void single_prefetch(const SingleArgs& a, const SingleMemory& m, int index) {
  constexpr int kSector = 16;  // halves
  const int warp = static_cast<int>(threadIdx.x >> 5), lane = static_cast<int>(threadIdx.x & 31);
  const SingleShared& head = m.head();
#pragma unroll 1
  for (int piece = kSingleWarps - 1 - warp; piece < head.run.pieces; piece += kSingleWarps) {
    const SinglePiece& p = m.pieces()[piece];
    const ExpertRef& e = a.layer.experts[head.slots[p.slot].expert];
    const __half* from = lane < 8 ? e.gate.svh : lane < 16 ? e.up.svh : e.down.suh;
    if (lane < 24) prefetch_line(from + p.band * kBand + (lane & 7) * kSector);
  }
  const int block = single_first_block(index), expert = head.slots[lane].expert;
  if (warp < kBand / kSector && block < a.hidden_blocks.value && expert >= 0) {
    prefetch_line(a.layer.experts[expert].down.svh + block * kBand + warp * kSector);
  }
}

__device__ inline void single_compute(const SingleArgs& a, const SingleMemory& m, int index) {
  const int warp = static_cast<int>(threadIdx.x >> 5);
  const int group = warp / kSingleGroupWarps, turn = warp % kSingleGroupWarps;
  const SingleRun& run = m.head().run;
  // Inputs by the warps that have no weights to ask for, or those of down, which are not urgent.
  const int first = (kSingleGroupWarps - 1 - turn) * kSingleGroups + group;
  SingleCursor at(group);
#pragma unroll 1
  for (int phase = 0; phase < 2; ++phase) {  // one instance of the code for both
    const bool down = phase == 1;
    SingleMiddle middle{};
    if (down) {
      if (warp < run.pieces) middle.load(a, m, warp);
      single_exchange_sums(a, m, index);
      __syncthreads();
      stamp(a, kStampWaited);
    }
    const int before = down ? a.digit_blocks : 0, inputs = down ? run.pieces : run.count * a.matrices;
#pragma unroll 1
    for (int i = down ? warp : first; i < inputs; i += kSingleWarps) {
      float v[4];
      if (down) {
        if (i != warp) middle.load(a, m, i);
        single_down_input(a, m, index, i, middle, v);
      } else {
        single_gate_up_input(a, m, i, v);
      }
      single_quantize(v, m.digits(before + i), m.scales() + before + i);
    }
    if (!down) {
#pragma unroll 1
      for (int i = turn; i < a.ring_stages && kSingleGroups * i + group < 3 * run.count; i += kSingleGroupWarps) {
        single_load(a, m, group, kSingleGroups * i + group, i);
      }
    }
    __syncthreads();
    stamp(a, down ? kStampDownInput : kStampInput);
    single_walk(a, m, (2 + phase) * run.count, down, at);
    __syncthreads();
    if (down && threadIdx.x == 0) {
      store_release(&stream_state.flags[static_cast<int>(Written::kDown)][index], m.head().launch);
    }
    stamp(a, down ? kStampDown : kStampGateUp);
  }
}

__global__ void __launch_bounds__(kSingleThreads, 1) single_kernel(const __grid_constant__ SingleArgs a) {
  const SingleMemory m{dynamic_shared<unsigned char>(), a};
  stamp_time(a, kStampEntered);
  single_start(a, m);
  __syncthreads();
  const int index = static_cast<int>(blockIdx.x);
  wait_for_previous_kernel();
  let_next_kernel_start();
  stamp_time(a, kStampReleased);
  stamp(a, kStampStart);
  if (threadIdx.x < 32) {
    single_table(a, m, index);
  } else {
    if (threadIdx.x == kSingleThreads - 1) m.head().launch = launch_number();
    single_load_row(a, m, 32);
  }
  __syncthreads();
  stamp(a, kStampTable);
  if (threadIdx.x == kSingleThreads - 1) leave_launch(m.head().launch);
  single_prefetch(a, m, index);
  if (m.head().run.count > 0) single_compute(a, m, index);
  single_sum(a, m, index);
  if (m.head().run.count > 0) stamp(a, kStampSums);
  stamp_time(a, kStampLeft);
}

}  // namespace fairway::kernels::cuda
