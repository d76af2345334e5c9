// The kernel that computes a call of few tokens in one launch; see stream_args.cuh for how work is cut and
// stream_sync.cuh for how CTAs wait for each other.
#pragma once

#include "kernels/moe_swiglu/cuda/stream_early.cuh"
#include "kernels/moe_swiglu/cuda/stream_input.cuh"
#include "kernels/moe_swiglu/cuda/stream_load.cuh"
#include "kernels/moe_swiglu/cuda/stream_walk.cuh"

namespace fairway::kernels::cuda {

// Shared memory of a CTA: the stages of the rings, this, the input digits.
template <class Shape>
using StreamSums = float[2 * kIntRowParts][Shape::kTokens][kInnerStride];
template <class Shape>
struct alignas(16) StreamShared {
  RingBarriers barriers[2];  // of a team
  EarlyBarriers early;
  InputFacts facts[2];
  alignas(16) StreamTable table;
  alignas(16) StreamSums<Shape> sums[Shape::kBuffers];
};

// One warp's share of `blocks` units of its team, for up to 4 * kGroups tokens; the sums go to sums[row part].
template <int kGroups, int kTokens>
__device__ inline void compute_units(const StreamArgs& a, int bits, int blocks, const unsigned char* input,
                                     RingCursor& ring, float (*sums)[kTokens][kInnerStride]) {
  int acc[kIntTiles][kGroups][4] = {};
  switch (bits) {
#define FAIRWAY_CASE(bits)                                                \
  case bits:                                                              \
    walk_stream<bits, kGroups>(ring, blocks, input, a.input_stride, acc); \
    break;
    FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
  }
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    float* own = sums[warp % kTeamWarps >> 1][4 * g + (lane & 3)] + (warp & 1) * kIntTiles * 16 + (lane >> 2);
#pragma unroll
    for (int tile = 0; tile < kIntTiles; ++tile) {
      const int* c = acc[tile][g];
      own[16 * tile] = fmaf(128.0f, static_cast<float>(c[0]), static_cast<float>(c[1]));
      own[16 * tile + 8] = fmaf(128.0f, static_cast<float>(c[2]), static_cast<float>(c[3]));
    }
  }
}

// The same for the tokens of a segment.
template <class Shape>
__device__ __forceinline__ void compute_units(const StreamArgs& a, int tokens, int bits, int blocks,
                                              const unsigned char* input, RingCursor& ring,
                                              float (*sums)[Shape::kTokens][kInnerStride]) {
  if (Shape::kTokens > 4 && tokens > 4) {
    compute_units<Shape::kTokens / 4>(a, bits, blocks, input, ring, sums);
  } else {
    compute_units<1>(a, bits, blocks, input, ring, sums);
  }
}

// From sums of n * digit to sums of weight * input. The bias of a whole row is added by the piece that begins it.
__device__ __forceinline__ float from_fixed_point(const InputFacts& f, int matrix, int token, bool begins, float sum) {
  const float unit = __int_as_float(f.largest[matrix][token]) * (1.0f / kDigitMax);
  const float bias = begins ? kMul1Bias * static_cast<float>(f.digit_sum[matrix][token]) : 0.0f;
  return unit * fmaf(kMul1Scale, sum, bias);
}

template <class Shape>
__device__ inline void finish_gate_up_piece(const StreamArgs& a, unsigned launch, const StreamSegment& s,
                                            const Piece& p, const InputFacts& facts, const StreamSums<Shape>& sums) {
  const int piece = p.item + blockIdx.x;
  for (int i = threadIdx.x; i < s.count * kBand; i += Shape::kComputeThreads) {  // two columns
    const int pair = i % (kBand / 2), matrix = i / (kBand / 2) & 1, token = i / kBand;
    // Where the token is among the inputs, and so among the sums.
    const int place = Shape::kEarly ? s.slots[token] / a.slots_per_token : token;
    float2 sum = make_float2(0, 0);
#pragma unroll
    for (int part = 0; part < kIntRowParts; ++part) {
      const float2 own = *reinterpret_cast<const float2*>(&sums[matrix * kIntRowParts + part][place][2 * pair]);
      sum.x += own.x;
      sum.y += own.y;
    }
    const int input = a.layer.common_suh != nullptr ? 0 : matrix;
    sum = make_float2(from_fixed_point(facts, input, place, p.begin == 0, sum.x),
                      from_fixed_point(facts, input, place, p.begin == 0, sum.y));
    if (linked<Shape>(a)) {
      uint4* const units = linked_gate_up + ((piece * 2 + matrix) * kLinkedTokens + token) * kLinkedUnits;
      store_numbered(units + (pair & 1) * 32 + pair / 2, sum.x, sum.y, launch);
    } else {
      float* const out = a.gate_up + static_cast<std::size_t>(piece) * (2 * kSegmentTokens * kBand);
      *reinterpret_cast<float2*>(out + (matrix * kSegmentTokens + token) * kBand + 2 * pair) = sum;
    }
  }
}

// One token of a piece of down that a warp finishes when its sums are there, and what a lane scales its outputs with:
// read before the weights are multiplied, used after it.
struct DownFinish {
  int token = -1;   // none
  int row, buffer;  // item + CTA; of the sums
  bool begins;      // the piece begins the item
  uint2 svh;
  float weight;
};

__device__ __forceinline__ void note_finish(const StreamArgs& a, const StreamSegment& s, const Piece& p, int token,
                                            int buffer, DownFinish& f) {
  const int lane = threadIdx.x & 31;
  f.token = token;
  f.row = p.item + static_cast<int>(blockIdx.x);
  f.buffer = buffer;
  f.begins = p.begin == 0;
  f.svh = *reinterpret_cast<const uint2*>(a.layer.experts[s.expert].down.svh + p.band * kBand + 4 * lane);
  f.weight = slot_weight(a, s.slots[token]);
}

template <class Shape>
__device__ inline void finish_down_piece(const StreamArgs& a, unsigned launch, const InputFacts& facts,
                                         const DownFinish& f, const StreamSums<Shape>& sums) {
  const int lane = threadIdx.x & 31;
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
  for (int part = 0; part < Shape::kTeams * kIntRowParts; ++part) {
    sum = add4(sum, *reinterpret_cast<const float4*>(&sums[part][f.token][4 * lane]));
  }
  float v[4];
  to_array(sum, v);
#pragma unroll
  for (int j = 0; j < 4; ++j) v[j] = from_fixed_point(facts, 0, f.token, f.begins, v[j]);
  hadamard128(v);
  scale_by(v, f.svh);
  const float4 weighted = make_float4(v[0] * f.weight, v[1] * f.weight, v[2] * f.weight, v[3] * f.weight);
  const int row = f.row * (linked<Shape>(a) ? kLinkedTokens : kSegmentTokens) + f.token;
  if (linked<Shape>(a)) {
    store_linked(linked_down + row * kLinkedUnits + lane, weighted, launch);
  } else {
    *reinterpret_cast<float4*>(a.down + static_cast<std::size_t>(row) * kBand + 4 * lane) = weighted;
  }
}

// Whether the next piece of down, after one that ends before unit `at`, is the last of the run and of the same segment.
// Then warps of the second team finish this one together with it: a team whose warps do so in between is late.
template <class Shape>
__device__ __forceinline__ bool next_is_last(const StreamTable& t, const StreamSegment& s, int hidden_blocks, int at) {
  const int left = t.run.end - at;
  return Shape::kTeams == 2 && left > 0 && left <= min(s.bands, (s.first_band + s.bands) * hidden_blocks - at);
}

// The weights of one piece.
template <class Shape>
__device__ __forceinline__ void walk_gate_up(const StreamArgs& a, const StreamSegment& s, const Piece& p,
                                             const StreamInput& in, RingCursor& ring, StreamSums<Shape>& sums) {
  const int team = threadIdx.x / (32 * kTeamWarps);
#pragma unroll 1
  for (int matrix = team; matrix < 2; matrix += Shape::kTeams) {
    const int input = a.layer.common_suh != nullptr ? 0 : matrix;
    compute_units<Shape>(a, s.count, segment_bits(s, matrix), p.count,
                         in.digits + input_column<Shape>(input, 0) * a.input_stride + p.begin * kBand, ring,
                         sums + matrix * kIntRowParts);
  }
}
// before: units of the run that precede the piece.
template <class Shape>
__device__ __forceinline__ void walk_down(const StreamArgs& a, const StreamSegment& s, const Piece& p, int before,
                                          const StreamInput& in, RingCursor& ring, StreamSums<Shape>& sums) {
  const int team = threadIdx.x / (32 * kTeamWarps);
  const int half = Shape::kTeams == 2 ? first_half(before, p.count) : p.count;
  compute_units<Shape>(a, s.count, segment_bits(s, 2), team == 0 ? half : p.count - half,
                       in.digits + (p.begin + (team == 0 ? 0 : half)) * kBand, ring, sums + team * kIntRowParts);
}

// All pieces of one phase. Ends with a barrier of the computing warps.
template <class Shape, bool kDown>
__device__ void compute_phase(const StreamArgs& a, StreamInput& in, RingCursor& ring, StreamShared<Shape>& shared) {
  const StreamTable& t = shared.table;
  Piece p;
  p.segment = t.run.segment;
  int prepared = -1, at = t.run.begin, buffer = 0;
  DownFinish finish;
  while (next_piece(t, a.layer.hidden / kBand, kDown, t.run.end, at, p)) {
    const StreamSegment& s = t.segments[p.segment];
    bool wait = false;  // for the next piece, with finishing this one
    if constexpr (kDown) {
      wait = next_is_last<Shape>(t, s, a.layer.hidden / kBand, at);
      const int token = static_cast<int>(threadIdx.x >> 5) - (wait ? kTeamWarps : 0);
      if (token >= 0 && token < s.count) note_finish(a, s, p, token, buffer, finish);
    }
    const bool inputs_there = Shape::kEarly && !kDown;  // of all tokens
    if (!inputs_there && p.segment != prepared && (kDown || prepared < 0 || !same_inputs(a, s, t.segments[prepared]))) {
      prepare_segment<Shape, kDown>(a, t, s, in);
      stamp(a, kDown ? kStampDownInput : kStampInput);
    }
    prepared = p.segment;
    StreamSums<Shape>& sums = shared.sums[buffer];
    if constexpr (kDown) {
      walk_down<Shape>(a, s, p, at - p.count - t.run.begin, in, ring, sums);
    } else {
      walk_gate_up<Shape>(a, s, p, in, ring, sums);
    }
    consumer_sync<Shape::kComputeThreads>();
    if constexpr (kDown) {
      if (finish.token >= 0 && !wait) {
        finish_down_piece<Shape>(a, t.launch, in.facts[in.set], finish, shared.sums[finish.buffer]);
        finish.token = -1;
      }
    } else {
      finish_gate_up_piece<Shape>(a, t.launch, s, p, in.facts[in.set], sums);
    }
    if constexpr (Shape::kBuffers == 1) {
      consumer_sync<Shape::kComputeThreads>();
    } else {
      buffer ^= 1;  // its last readers have passed the barrier above
    }
  }
  // In linked calls there is no flag to raise, and down has barriers before it writes any sums.
  if (Shape::kBuffers > 1 && (kDown || !linked<Shape>(a))) consumer_sync<Shape::kComputeThreads>();
}

// One warp: the sum of the pieces of a slot's item, four outputs of the band a lane; zero for an unused slot.
template <class Shape>
__device__ inline float4 sum_slot(const StreamArgs& a, const StreamTable& t, int slot, int band) {
  const int place = t.place[slot];
  if (place < 0) return make_float4(0, 0, 0, 0);
  const int hidden_blocks = a.layer.hidden / kBand;
  const StreamSegment& s = t.segments[place / kSegmentTokens];
  const int unit = band * s.bands, item = place / kSegmentTokens * hidden_blocks + band;
  const int first = unit_owner(t, s, unit);
  const int last = unit_owner(t, s, unit + s.bands - 1);
  const int lane = threadIdx.x & 31, token = place % kSegmentTokens;
  float4 sums[1] = {};
  if (linked<Shape>(a)) {
    add_linked(linked_down + token * kLinkedUnits + lane, 0, kLinkedTokens * kLinkedUnits, item + first, item + last,
               t.launch, sums);
  } else {
    wait_for_flags(Written::kDown, first, last, t.launch);
    add_pieces(a.down + token * kBand + 4 * lane, kSegmentTokens * kBand, item + first, item + last, sums);
  }
  return sums[0];
}

// Which CTAs add up the slots: those without weights, if there are enough of them, because they wait for the sums with
// everything at hand; else all others.
struct SumShare {
  int first, ctas;
};
template <class Shape>
__device__ __forceinline__ SumShare sum_share(const StreamArgs& a, int working) {
  const int idle = static_cast<int>(gridDim.x) - working, units = a.call.tokens * (a.layer.hidden / kBand);
  const int groups = Shape::kWarps / max(min(a.slots_per_token, Shape::kWarps), 1);
  return idle * groups >= units ? SumShare{working, idle} : SumShare{0, working};
}

// y = the sums over the slots of a token. A warp takes one slot of one band of one token, so that all reads of a sum
// are under way at the same time; the slots meet in shared memory and are added in their order.
template <class Shape>
__device__ inline void sum_slots(const StreamArgs& a, const SumShare& share, StreamShared<Shape>& shared) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int bands = a.layer.hidden / kBand, units = a.call.tokens * bands;
  const int group = max(min(a.slots_per_token, Shape::kWarps), 1);  // warps of a unit
  const int groups = min(Shape::kWarps / group, (units + share.ctas - 1) / share.ctas);
  float4* const rows = reinterpret_cast<float4*>(&shared.sums[0][0][0][0]);  // [warp][lane]
  for (int base = (static_cast<int>(blockIdx.x) - share.first) * groups; base < units; base += share.ctas * groups) {
    float4 total = make_float4(0, 0, 0, 0);
    for (int begin = 0; begin < a.slots_per_token; begin += group) {
      const int unit = base + warp / group, j = begin + warp % group;
      if (warp < groups * group && unit < units && j < a.slots_per_token) {
        rows[32 * warp + lane] = sum_slot<Shape>(a, shared.table, unit / bands * a.slots_per_token + j, unit % bands);
      }
      consumer_sync<Shape::kComputeThreads>();
      if (warp < groups) {
        for (int i = 0; i < min(group, a.slots_per_token - begin); ++i) {
          total = add4(total, rows[32 * (warp * group + i) + lane]);
        }
      }
      consumer_sync<Shape::kComputeThreads>();
    }
    const int unit = base + warp;
    if (warp >= groups || unit >= units) continue;
    float* const out = a.call.y + unit / bands * a.call.ldy + unit % bands * kBand + 4 * lane;
    *reinterpret_cast<float4*>(out) = total;
  }
}

// The computing warps of a CTA that has no units.
template <class Shape>
__device__ __forceinline__ void sum_without_weights(const StreamArgs& a, int working, StreamShared<Shape>& shared) {
  const SumShare share = sum_share<Shape>(a, working);
  if (share.first != 0) sum_slots<Shape>(a, share, shared);
}

template <class Shape>
__device__ inline void compute_run(const StreamArgs& a, RingCursor ring, StreamInput& in, StreamShared<Shape>& shared) {
  const StreamTable& t = shared.table;
  compute_phase<Shape, false>(a, in, ring, shared);
  if (threadIdx.x == 0 && !linked<Shape>(a)) raise_flag(Written::kGateUp, t.launch);
  stamp(a, kStampGateUp);
  compute_phase<Shape, true>(a, in, ring, shared);
  if (threadIdx.x == 0 && !linked<Shape>(a)) raise_flag(Written::kDown, t.launch);
  stamp(a, kStampDown);
  const SumShare share = sum_share<Shape>(a, working_ctas(t, a.layer.hidden / kBand));
  if (share.first == 0) sum_slots<Shape>(a, share, shared);
  stamp(a, kStampSums);
}

// An early launch: the loading warps read what the experts are, one of them waits for the kernel before and makes the
// table; meanwhile the computing warps make the inputs.
template <class Shape, class RingOf>
__device__ inline void run_early(const StreamArgs& a, const RingOf& ring_of, unsigned char* digits,
                                 StreamShared<Shape>& shared) {
  static_assert(Shape::kBuffers == 2 && sizeof(ExpertTable) <= sizeof(StreamSums<Shape>));
  static_assert(sizeof(EarlyScratch<Shape>) <= sizeof(StreamSums<Shape>));
  const StreamTable& t = shared.table;
  const bool loads = threadIdx.x >= Shape::kComputeThreads;
  const int loader = (static_cast<int>(threadIdx.x) - Shape::kComputeThreads) / 32;
  StreamInput in{digits, shared.facts};
  if (loads) {
    make_early_table<Shape>(a, shared.table, *reinterpret_cast<ExpertTable*>(&shared.sums[0]), shared.early, loader);
  } else {
    prepare_early<Shape>(a, in, *reinterpret_cast<EarlyScratch<Shape>*>(&shared.sums[1]));
    stamp(a, kStampInput);
  }
  barrier_wait(&shared.early.table, 0);
  wait_for_previous_kernel();  // which the table has waited for
  stamp_time(a, kStampReleased);
  stamp(a, kStampStart);
  stamp(a, kStampTable);
  const int working = working_ctas(t, a.layer.hidden / kBand);
  const bool works = static_cast<int>(blockIdx.x) < working;
  if (!loads) {
    if (works) {
      compute_run<Shape>(a, ring_of(threadIdx.x / (32 * kTeamWarps)), in, shared);
    } else {
      sum_without_weights<Shape>(a, working, shared);
    }
    return;
  }
  if (works) load_run<Shape>(a, t, loader, ring_of(loader % Shape::kTeams));
  if (threadIdx.x == Shape::kComputeThreads) leave_launch(t.launch);
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kCtas) stream_kernel(const __grid_constant__ StreamArgs a) {
  static_assert(Shape::kWarps * kBand <= sizeof(StreamShared<Shape>::sums[0]) / sizeof(float));
  unsigned char* const memory = dynamic_shared<unsigned char>();
  auto& shared = *reinterpret_cast<StreamShared<Shape>*>(memory + Shape::kTeams * a.ring_stages * a.stage_bytes);
  unsigned char* digits = reinterpret_cast<unsigned char*>(&shared + 1);
  stamp_time(a, kStampEntered);
  const auto ring_of = [&](int team) {
    return RingCursor{memory + team * a.ring_stages * a.stage_bytes, &shared.barriers[team], a.ring_stages,
                      a.stage_bytes};
  };
  if (threadIdx.x < 32 * Shape::kTeams) {
    ring_init_by_lanes(&shared.barriers[threadIdx.x / 32], a.ring_stages, kTeamWarps, Shape::kLoaders / Shape::kTeams);
  }
  if (threadIdx.x < 2 * sizeof(InputFacts) / sizeof(int)) reinterpret_cast<int*>(shared.facts)[threadIdx.x] = 0;
  if constexpr (Shape::kEarly) {
    if (threadIdx.x == Shape::kThreads - 1) shared.early.init(Shape::kLoaders);
    __syncthreads();
    run_early<Shape>(a, ring_of, digits, shared);
    stamp_time(a, kStampLeft);
    return;
  }
  prefetch_constants(a);
  ExpertTable& experts = *reinterpret_cast<ExpertTable*>(&shared.sums);
  static_assert(sizeof(ExpertTable) <= sizeof(shared.sums));
  start_table(a, experts, static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
  wait_for_previous_kernel();
  let_next_kernel_start();
  stamp_time(a, kStampReleased);
  stamp(a, kStampStart);
  if (threadIdx.x == Shape::kComputeThreads) shared.table.launch = launch_number();
  make_table<Shape>(a, shared.table, experts);
  stamp(a, kStampTable);
  const int working = working_ctas(shared.table, a.layer.hidden / kBand);
  if (static_cast<int>(blockIdx.x) >= working) {
    if (threadIdx.x == 0) leave_launch(shared.table.launch);
    if (threadIdx.x >= Shape::kComputeThreads) return;
    sum_without_weights<Shape>(a, working, shared);
    stamp_time(a, kStampLeft);
    return;
  }
  if (threadIdx.x >= Shape::kComputeThreads) {
    const int loader = (static_cast<int>(threadIdx.x) - Shape::kComputeThreads) / 32;
    load_run<Shape>(a, shared.table, loader, ring_of(loader % Shape::kTeams));
    // Here and not at the end, where the CTA would wait for the answer.
    if (threadIdx.x == Shape::kComputeThreads) leave_launch(shared.table.launch);
  } else {
    StreamInput in{digits, shared.facts};
    compute_run<Shape>(a, ring_of(threadIdx.x / (32 * kTeamWarps)), in, shared);
  }
  stamp_time(a, kStampLeft);
}

}  // namespace fairway::kernels::cuda
