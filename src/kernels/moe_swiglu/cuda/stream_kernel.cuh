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

// A barrier of one team.
template <class Shape>
__device__ __forceinline__ void team_sync(int team) {
  static_assert(Shape::kTeams <= 2);
  if (team == 0) {
    group_sync<0, 32 * kTeamWarps>();
  } else {
    group_sync<1, 32 * kTeamWarps>();
  }
}

// One warp's share of `blocks` units of its team, for up to 4 * kGroups tokens; the sums go to sums[row part].
template <int kGroups, int kTokens>
__device__ inline void compute_units(const StreamArgs& a, int bits, int blocks, const unsigned char* input,
                                     const StagePlace& place, RingCursor& ring, float (*sums)[kTokens][kInnerStride]) {
  int acc[kIntTiles][kGroups][4] = {};
  switch (bits) {
#define FAIRWAY_CASE(bits)                                                       \
  case bits:                                                                     \
    walk_stream<bits, kGroups>(ring, blocks, input, a.input_stride, place, acc); \
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
                                              const unsigned char* input, const StagePlace& place, RingCursor& ring,
                                              float (*sums)[Shape::kTokens][kInnerStride]) {
  if (Shape::kTokens > 4 && tokens > 4) {
    compute_units<Shape::kTokens / 4>(a, bits, blocks, input, place, ring, sums);
  } else {
    compute_units<1>(a, bits, blocks, input, place, ring, sums);
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
  // From the last warp on: the first ones go on to prepare down.
  static_assert((Shape::kWarps & (Shape::kWarps - 1)) == 0);
  const int thread = static_cast<int>(threadIdx.x) ^ (Shape::kComputeThreads - 32);
  for (int i = thread; i < s.count * kBand; i += Shape::kComputeThreads) {  // two columns
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

template <class Shape>
__device__ __forceinline__ const float* early_weights(const StreamTable& t) {
  return Shape::kEarly ? t.weights : nullptr;
}

// What a lane scales its outputs of a piece of down with: read before the weights are multiplied, used after it.
struct DownScales {
  uint2 svh = {};
  float weight = 0;

  __device__ DownScales() {}
  // weights: of the slots in an early launch, else null
  __device__ DownScales(const StreamArgs& a, const StreamSegment& s, const float* weights, int band, int token)
      : svh(*reinterpret_cast<const uint2*>(a.layer.experts[s.expert].down.svh + band * kBand +
                                            4 * static_cast<int>(threadIdx.x & 31))),
        weight(weights != nullptr ? weights[s.slots[token]] : slot_weight(a, s.slots[token])) {}
};

// One token of a piece of down, by a warp. sums: of its team. row: where they are stored.
template <class Shape>
__device__ inline void finish_down_piece(const StreamArgs& a, unsigned launch, const InputFacts& facts,
                                         const DownScales& scales, int row, int token, bool begins,
                                         const float (*sums)[Shape::kTokens][kInnerStride]) {
  const int lane = threadIdx.x & 31;
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
  for (int part = 0; part < kIntRowParts; ++part) {
    sum = add4(sum, *reinterpret_cast<const float4*>(&sums[part][token][4 * lane]));
  }
  float v[4];
  to_array(sum, v);
#pragma unroll
  for (int j = 0; j < 4; ++j) v[j] = from_fixed_point(facts, 0, token, begins, v[j]);
  hadamard128(v);
  scale_by(v, scales.svh);
  const float weight = scales.weight;
  const float4 weighted = make_float4(v[0] * weight, v[1] * weight, v[2] * weight, v[3] * weight);
  if (linked<Shape>(a)) {
    store_linked(linked_down + (row * kLinkedTokens + token) * kLinkedUnits + lane, weighted, launch);
  } else {
    float* const out = a.down + static_cast<std::size_t>(row * kSegmentTokens + token) * kBand;
    *reinterpret_cast<float4*>(out + 4 * lane) = weighted;
  }
}

// All pieces of gate and up. Linked calls have no flag to raise, and down has barriers before it writes any sums.
template <class Shape>
__device__ void compute_gate_up(const StreamArgs& a, StreamInput& in, RingCursor& ring, StreamShared<Shape>& shared) {
  const StreamTable& t = shared.table;
  Piece p;
  p.segment = t.run.segment;
  int prepared = -1, at = t.run.begin, buffer = 0;
  const int team = threadIdx.x / (32 * kTeamWarps);
  while (next_piece(t, a.layer.hidden / kBand, false, t.run.end, at, p)) {
    const StreamSegment& s = t.segments[p.segment];
    const bool inputs_there = Shape::kEarly;  // of all tokens
    if (!inputs_there && p.segment != prepared && (prepared < 0 || !same_inputs(a, s, t.segments[prepared]))) {
      prepare_segment<Shape, false>(a, t, s, in);
      stamp(a, kStampInput);
    }
    prepared = p.segment;
    StreamSums<Shape>& sums = shared.sums[buffer];
#pragma unroll 1
    for (int matrix = team; matrix < 2; matrix += Shape::kTeams) {
      const int input = a.layer.common_suh != nullptr ? 0 : matrix, bits = segment_bits(s, matrix);
      const StagePlace place(bits, a.input_stride);
      compute_units<Shape>(a, s.count, bits, p.count,
                           in.digits + input_column<Shape>(input, 0) * a.input_stride + p.begin * kBand, place, ring,
                           sums + matrix * kIntRowParts);
    }
    consumer_sync<Shape::kComputeThreads>();
    finish_gate_up_piece<Shape>(a, t.launch, s, p, in.facts[in.set], sums);
    if constexpr (Shape::kBuffers == 1) {
      consumer_sync<Shape::kComputeThreads>();
    } else {
      buffer ^= 1;  // its last readers have passed the barrier above
    }
  }
  if (Shape::kBuffers > 1 && !linked<Shape>(a)) consumer_sync<Shape::kComputeThreads>();
}

// The token of a piece of down that a warp of a team finishes, or 0 where that is none of `count`. Other warps do so
// with the next piece, if there are few tokens.
__device__ __forceinline__ int finished_token(int warp, int buffer, int count) {
  const int token = (warp + kTeamWarps / 2 * buffer) % kTeamWarps;
  return token < count ? token : 0;
}

// What a warp knows of down in one segment before its inputs are there. Found out while it would wait otherwise: code
// that runs once takes long, and the constants come from far.
struct DownPlan {
  Piece first;  // of its team
  TeamShare share;
  int at;  // the team's next piece
  MiddleBlock middle;
  DownScales scales;
  StagePlace place;

  // Of the run's units from `unit` on, which is in the segment. buffer: of the first piece's sums.
  template <class Shape>
  static __device__ __forceinline__ DownPlan of(const StreamArgs& a, const StreamTable& t, int segment, int unit,
                                                int buffer) {
    const int hidden_blocks = a.layer.hidden / kBand;
    const int team = threadIdx.x / (32 * kTeamWarps), warp = threadIdx.x / 32 % kTeamWarps;
    const StreamSegment& s = t.segments[segment];
    const auto share = TeamShare::of<Shape>(t, segment, hidden_blocks, team, unit);
    Piece first;
    first.segment = segment;
    int at = share.begin;
    share.next_piece_of(t, hidden_blocks, at, first);
    return {first,
            share,
            at,
            first_middle(a, t, s),
            DownScales(a, s, early_weights<Shape>(t), first.band, finished_token(warp, buffer, s.count)),
            StagePlace(segment_bits(s, 2), a.input_stride)};
  }
};

// A team's pieces of down of one segment. Begins after a barrier of the computing warps.
template <class Shape>
__device__ __forceinline__ void compute_down_segment(const StreamArgs& a, const DownPlan& plan, StreamInput& in,
                                                     RingCursor& ring, StreamShared<Shape>& shared, int& buffer) {
  const StreamTable& t = shared.table;
  const int team = threadIdx.x / (32 * kTeamWarps), warp = threadIdx.x / 32 % kTeamWarps;
  Piece p = plan.first;
  int at = plan.at;
  const StreamSegment& s = t.segments[p.segment];
  DownScales scales = plan.scales;
  prepare_segment<Shape, true>(a, t, s, in, plan.middle);
  stamp(a, kStampDownInput);
  for (;;) {
    float(*const sums)[Shape::kTokens][kInnerStride] = shared.sums[buffer] + team * kIntRowParts;
    compute_units<Shape>(a, s.count, segment_bits(s, 2), p.count, in.digits + p.begin * kBand, plan.place, ring, sums);
    team_sync<Shape>(team);
    if (finished_token(warp, buffer, kTeamWarps) < s.count) {
      finish_down_piece<Shape>(a, t.launch, in.facts[in.set], scales,
                               p.item + Shape::kTeams * static_cast<int>(blockIdx.x) + team,
                               finished_token(warp, buffer, s.count), p.begin == 0 && p.count > 0, sums);
    }
    if constexpr (Shape::kBuffers == 1) {
      team_sync<Shape>(team);
    } else {
      buffer ^= 1;  // its last readers have passed the barrier above
    }
    if (!plan.share.next_piece_of(t, a.layer.hidden / kBand, at, p)) return;
    scales = DownScales(a, s, early_weights<Shape>(t), p.band, finished_token(warp, buffer, s.count));
  }
}

// All pieces of gate and up, and of down. Linked calls end without a barrier.
template <class Shape>
__device__ __forceinline__ void compute_phases(const StreamArgs& a, StreamInput& in, RingCursor& ring,
                                               StreamShared<Shape>& shared) {
  const StreamTable& t = shared.table;
  const int hidden_blocks = a.layer.hidden / kBand;
  constexpr bool kAhead = Shape::kEarly;  // where a call is so short that it matters; it is more code
  int buffer = 0, next = t.run.begin, segment = t.run.segment;
  DownPlan plan;
  const auto find_plan = [&] {
    segment = segment_of(t, hidden_blocks, next, segment);
    plan = DownPlan::of<Shape>(a, t, segment, next, buffer);
  };
  if (kAhead && next < t.run.end) find_plan();
  compute_gate_up<Shape>(a, in, ring, shared);
  if (threadIdx.x == 0 && !linked<Shape>(a)) raise_flag(Written::kGateUp, t.launch);
  stamp(a, kStampGateUp);
#pragma unroll 1
  while (next < t.run.end) {
    if (!kAhead) find_plan();
    compute_down_segment<Shape>(a, plan, in, ring, shared, buffer);
    next = plan.share.next;
    if (next >= t.run.end) break;
    // The inputs of the segment before are free when both teams are done with them.
    if (Shape::kTeams > 1) consumer_sync<Shape::kComputeThreads>();
    if (kAhead) find_plan();
  }
  if (linked<Shape>(a)) return;
  if (Shape::kBuffers > 1) consumer_sync<Shape::kComputeThreads>();
  if (threadIdx.x == 0) raise_flag(Written::kDown, t.launch);
}

// One warp: the sum of the pieces of a slot's item, four outputs of the band a lane; zero for an unused slot.
template <class Shape>
__device__ inline float4 sum_slot(const StreamArgs& a, const StreamTable& t, int slot, int band) {
  const int place = t.place[slot];
  if (place < 0) return make_float4(0, 0, 0, 0);
  const int hidden_blocks = a.layer.hidden / kBand, segment = place / kSegmentTokens;
  const int lane = threadIdx.x & 31, token = place % kSegmentTokens, bands = t.segments[segment].bands;
  const int item = first_down_item(segment, hidden_blocks) + band;
  // The even lanes ask for the first unit of the item, the odd ones for the last.
  const int owner = team_owner<Shape>(t, segment, hidden_blocks, band * bands + lane % 2 * (bands - 1));
  const int first = __shfl_sync(0xFFFFFFFFu, owner, 0), last = __shfl_sync(0xFFFFFFFFu, owner, 1);
  float4 sums[1] = {};
  wait_for_flags(Written::kDown, first / Shape::kTeams, last / Shape::kTeams, t.launch);
  add_pieces(a.down + token * kBand + 4 * lane, kSegmentTokens * kBand, item + first, item + last, sums);
  return sums[0];
}

// Which CTAs add up the slots: those without weights, if there are enough of them, because they wait for the sums with
// everything at hand; else all others.
constexpr int kSumParts = 8;  // of a band, see sum_linked()
struct SumShare {
  int first, ctas;
};
template <class Shape>
__device__ __forceinline__ SumShare sum_share(const StreamArgs& a, int working) {
  const int idle = static_cast<int>(gridDim.x) - working, units = a.call.tokens * (a.layer.hidden / kBand);
  if (linked<Shape>(a) && idle * Shape::kWarps >= units * kSumParts) return {working, idle};
  const int groups = Shape::kWarps / max(min(a.slots_per_token, Shape::kWarps), 1);
  return idle * groups >= units ? SumShare{working, idle} : SumShare{0, working};
}

// y of linked calls. A warp takes 16 outputs of a band of a token and reads them of all pieces of all slots at the same
// time: eight lanes a piece, four pieces in one instruction. It adds each fourth piece, in the order of the slots, and
// then the four sums. Warps do not wait for each other, and a warp's work is little, so that all CTAs have some.
template <class Shape>
__device__ inline void sum_linked(const StreamArgs& a, const SumShare& share, const StreamTable& t) {
  constexpr unsigned kAll = 0xFFFFFFFFu;
  constexpr int kBatch = 4, kLanes = 32 / kBatch;
  const int lane = threadIdx.x & 31, warp = Shape::kWarps - 1 - static_cast<int>(threadIdx.x >> 5);
  const int bands = a.layer.hidden / kBand, slots = a.slots_per_token, group = lane / kLanes;
#pragma unroll 1
  for (int i = warp * share.ctas + static_cast<int>(blockIdx.x) - share.first; i < a.call.tokens * bands * kSumParts;
       i += Shape::kWarps * share.ctas) {
    const int part = i % kSumParts, band = i / kSumParts % bands, token = i / kSumParts / bands;
    const int column = part * (kBand / kSumParts) + 4 * (lane & 3) + (lane & 4) / 2;  // and the next one
    const uint4* const from = linked_down + (lane & 4) * 8 + column / 4;
    float* const out = a.call.y + token * a.call.ldy + band * kBand + column;
    float2 sum = make_float2(0, 0);
#pragma unroll 1
    for (int begin = 0; begin < slots; begin += 32) {
      int count = 0, first = 0;  // pieces of slot begin + lane, and where the first one is
      const int place = begin + lane < slots ? t.place[token * slots + begin + lane] : -1;
      if (place >= 0) {
        const int segment = place / kSegmentTokens, unit = band * t.segments[segment].bands;
        const int owner = team_owner<Shape>(t, segment, bands, unit);
        count = team_owner<Shape>(t, segment, bands, unit + t.segments[segment].bands - 1) - owner + 1;
        first =
            ((first_down_item(segment, bands) + band + owner) * kLinkedTokens + place % kSegmentTokens) * kLinkedUnits;
      }
      const int end = sum_of_lanes(count), pieces = __shfl_sync(kAll, end, 31);
      first -= (end - count) * (kLinkedTokens * kLinkedUnits);
#pragma unroll 1
      for (int base = 0; base < pieces; base += 32) {
        int slot = 0;  // of piece base + lane
#pragma unroll 1
        for (int j = 0; j < min(32, slots - begin); ++j) slot += base + lane >= __shfl_sync(kAll, end, j) ? 1 : 0;
        const int own = __shfl_sync(kAll, first, slot & 31) + (base + lane) * (kLinkedTokens * kLinkedUnits);
#pragma unroll 1
        for (int k = 0; k < min(32, pieces - base); k += kBatch * 4) {
          int at[kBatch];
          uint4 v[kBatch];
#pragma unroll
          for (int q = 0; q < kBatch; ++q) {
            const int piece = k + 4 * q + group;
            at[q] = __shfl_sync(kAll, own, piece);
            if (base + piece >= pieces) at[q] = -1;
          }
          bool all;
          int polls = 0;
          do {
            all = true;
#pragma unroll
            for (int q = 0; q < kBatch; ++q) {
              v[q] = make_uint4(0, t.launch, 0, t.launch);
              if (at[q] >= 0) v[q] = load_numbered(from + at[q]);
            }
#pragma unroll
            for (int q = 0; q < kBatch; ++q) all &= v[q].y == t.launch && v[q].w == t.launch;
            poll_again(++polls);
          } while (!__all_sync(kAll, all));
#pragma unroll
          for (int q = 0; q < kBatch; ++q) {
            sum.x += __uint_as_float(v[q].x);
            sum.y += __uint_as_float(v[q].z);
          }
        }
      }
    }
#pragma unroll
    for (int distance = kLanes; distance < 32; distance *= 2) {
      sum.x += __shfl_xor_sync(kAll, sum.x, distance);
      sum.y += __shfl_xor_sync(kAll, sum.y, distance);
    }
    if (group == 0) *reinterpret_cast<float2*>(out) = sum;
  }
}

// y of other calls. A warp takes one slot of one band of one token, so that all reads of a sum are under way at the
// same time; the slots meet in shared memory and are added in their order.
template <class Shape>
__device__ inline void sum_slots(const StreamArgs& a, const SumShare& share, StreamShared<Shape>& shared) {
  if (linked<Shape>(a)) return sum_linked<Shape>(a, share, shared.table);
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
  compute_phases<Shape>(a, in, ring, shared);
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
    if (a.call.norm.x == nullptr) {
      wait_for_previous_kernel();
      stamp_time(a, kStampReleased);
      stamp(a, kStampStart);
    }
    prepare_early<Shape>(a, in, *reinterpret_cast<EarlyScratch<Shape>*>(&shared.sums[1]));
    stamp(a, kStampInput);
  }
  barrier_wait(&shared.early.table, 0);
  if (a.call.announced.units == nullptr) wait_for_previous_kernel();  // which the table has waited for
  if (a.call.norm.x != nullptr) {
    stamp_time(a, kStampReleased);
    stamp(a, kStampStart);
  }
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
  if (a.call.announced.units != nullptr && loader == 0) {
    wait_for_previous_kernel();  // whose data is here: but it has to be over before this one is
    let_next_kernel_start();
  }
  if (threadIdx.x == Shape::kComputeThreads) leave_launch(t.launch, a.call.announced.turn);
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
#pragma unroll 1
  for (int team = 0; team < Shape::kTeams; ++team) {
    ring_init_by_warps(&shared.barriers[team], a.ring_stages, kTeamWarps, Shape::kLoaders / Shape::kTeams,
                       Shape::kThreads / 32);
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
