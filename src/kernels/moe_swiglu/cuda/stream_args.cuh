// The stream kernel computes a whole call of few tokens in one launch: gate and up, down, the sums. Work is cut into
// units of 128 x 128 weights and every CTA takes an equal run of them, whatever experts and bands it crosses. Of each
// of the first two phases a CTA has the same run of units, so that it waits for few others in between. This file: the
// arguments, the table of segments that every CTA makes for itself, and the walk over a CTA's run.
#pragma once

#include "kernels/moe_swiglu/cuda/band_args.cuh"
#include "kernels/moe_swiglu/cuda/stream_sync.cuh"

namespace fairway::kernels::cuda {

constexpr int kTeamWarps = 8;
constexpr int kSegmentTokens = 8;  // of a segment, at most, in any shape
constexpr int kStreamSlots = 256;  // of a call, at most

// A CTA has teams of computing warps, which share its units: of two teams one takes gate, one up; each has half of a
// piece of down. And one warp that loads. An expert is decoded once for kTokens tokens.
template <int kTokenCount, int kTeamCount, int kCtaCount>
struct StreamShape {
  static constexpr int kTokens = kTokenCount;  // of a segment, at most
  static constexpr int kTeams = kTeamCount;
  static constexpr int kCtas = kCtaCount;  // of an SM
  static constexpr int kWarps = kTeams * kTeamWarps;
  static constexpr int kComputeThreads = 32 * kWarps;
  static constexpr int kThreads = kComputeThreads + 32;
};
using StreamWide = StreamShape<4, 2, 1>;
using StreamWide8 = StreamShape<8, 2, 1>;
using StreamNarrow = StreamShape<4, 1, 3>;

struct StreamArgs {
  MoeLayer layer;
  MoeCall call;
  int slots_per_token;
  float* gate_up;   // [pieces][2][kSegmentTokens][kBand]: sums of a piece of an item, see Piece
  float* down;      // [pieces][kSegmentTokens][kBand]: the same, transformed, scaled and weighted
  int ring_stages;  // of each team
  int stage_bytes;
  int input_stride;  // bytes from one column of the input operand to the next
};

// Thread 0 notes when it passes a point, if the call asks for it. What a call that does not ask pays is a comparison
// with a constant at each point.
__device__ __forceinline__ void stamp(const StreamArgs& a, MoeStamp point) {
  if (a.call.probe.stamps != nullptr && threadIdx.x == 0) {
    a.call.probe.stamps[blockIdx.x * kMoeStamps + point] = cycle_counter();
  }
}
__device__ __forceinline__ void stamp_time(const StreamArgs& a, MoeStamp point) {
  if (a.call.probe.stamps != nullptr && threadIdx.x == 0) {
    a.call.probe.stamps[blockIdx.x * kMoeStamps + point] = device_nanoseconds();
  }
}

// Some tokens of one expert.
struct StreamSegment {
  int expert;
  int bits;               // of gate, up and down, 8 binary places each: here, because reads of global memory are slow
  int first_band, bands;  // of the intermediate size, counted through all segments
  int count;
  short slots[kSegmentTokens];
};

// The units of both phases: `bands` times the blocks of the hidden size. Gate and up run through segment, band of the
// intermediate size, block of the hidden size; down through segment, band of the hidden size, block of the intermediate
// one. In shared memory, to spare registers. Integer divisions take 100 cycles: there are as few as possible.
struct Run {
  unsigned units;
  unsigned factor, addend, divisor;  // see owner()
  int begin, end;

  // ctas_of_sm: with one, every CTA but the last has the same number of units, the least that suffices: shares are more
  // often a whole part of an item than proportional ones would be, and fewer CTAs depend on each other. With more, an
  // SM's share is the sum over its CTAs, which is more even if shares are proportional. The products are below 2^32.
  __device__ void start(unsigned all, int ctas_of_sm) {
    units = all;
    const unsigned ctas = max(min(gridDim.x, units), 1u);
    if (ctas_of_sm == 1) {
      divisor = max((units + gridDim.x - 1) / gridDim.x, 1u);
      factor = 1;
      addend = 0;
      begin = static_cast<int>(min(blockIdx.x * divisor, units));
      end = static_cast<int>(min((blockIdx.x + 1) * divisor, units));
    } else {
      divisor = max(units, 1u);
      factor = ctas;
      addend = ctas - 1;
      begin = static_cast<int>(min(blockIdx.x, ctas) * units / ctas);
      end = static_cast<int>(min(blockIdx.x + 1, ctas) * units / ctas);
    }
  }
  // The CTAs that have any unit; at least 1.
  __device__ int ctas() const { return units == 0 ? 1 : owner(static_cast<int>(units) - 1) + 1; }
  // The CTA that has a unit.
  __device__ int owner(int unit) const {
    return static_cast<int>((static_cast<unsigned>(unit) * factor + addend) / divisor);
  }
};

struct StreamTable {
  unsigned launch;  // its number
  int segment_count;
  Run run;
  StreamSegment segments[kStreamSlots];
  int place[kStreamSlots];  // of a slot: kSegmentTokens * segment + token, or -1
  // While the table is made:
  int expert[kStreamSlots], leader[kStreamSlots], bands_of[kStreamSlots], bits_of[kStreamSlots],
      segment_of[kStreamSlots];
};

__device__ __forceinline__ int segment_bits(const StreamSegment& s, int matrix) {
  return s.bits >> (8 * matrix) & 255;
}

// Numbers the segments in the order of their first slots. One warp.
template <int kCtas>
__device__ inline void number_segments(StreamTable& t, int slots, int hidden_blocks) {
  const int lane = threadIdx.x & 31;
  int segments = 0, bands = 0;
  for (int begin = 0; begin < slots; begin += 32) {
    const int i = begin + lane;
    const bool leads = i < slots && t.leader[i] == i;
    const unsigned leaders = __ballot_sync(0xFFFFFFFFu, leads);
    const int own = leads ? t.bands_of[i] : 0;
    int sum = own;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int before = __shfl_sync(0xFFFFFFFFu, sum, lane - d);
      if (lane >= d) sum += before;
    }
    if (leads) {
      const int s = segments + __popc(leaders & ((1u << lane) - 1));
      t.segment_of[i] = s;
      t.segments[s].expert = t.expert[i];
      t.segments[s].bits = t.bits_of[i];
      t.segments[s].first_band = bands + sum - own;
      t.segments[s].bands = own;
      t.segments[s].count = 0;
    }
    segments += __popc(leaders);
    bands += __shfl_sync(0xFFFFFFFFu, sum, 31);
  }
  if (lane == 0) {
    t.segment_count = segments;
    t.run.start(static_cast<unsigned>(bands * hidden_blocks), kCtas);
  }
}

// What is needed whatever the routes are, so that it waits in the L2 cache: the descriptions of the experts and the
// input scales that they share. Before the wait for the previous kernel. Each CTA fetches a part.
__device__ inline void prefetch_constants(const StreamArgs& a) {
  constexpr int kSector = 32;
  const int experts = static_cast<int>(sizeof(ExpertRef)) / kSector * (a.layer.routed + a.layer.shared);
  const int scales = a.layer.common_suh != nullptr ? a.layer.hidden * static_cast<int>(sizeof(__half)) / kSector : 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < experts + scales; i += gridDim.x * blockDim.x) {
    const void* const from = i < experts ? static_cast<const void*>(a.layer.experts) : a.layer.common_suh;
    prefetch_line(static_cast<const unsigned char*>(from) + kSector * (i < experts ? i : i - experts));
  }
}

// What a slot's expert says of itself; -1 and zeros for an unused slot.
struct SlotExpert {
  int expert = -1, bands = 0, bits = 0;

  __device__ SlotExpert(const StreamArgs& a, int slot, int slots) {
    if (slot >= slots) return;
    expert = slot_expert(a, slot);
    if (expert < 0) return;
    // Four sectors at the same time, which then are in the L1 cache for the loading warp.
    const ExpertRef& e = a.layer.experts[expert];
    bands = e.intermediate / kBand;
    bits = e.gate.bits | e.up.bits << 8 | e.down.bits << 16;
  }
};

// The table of at most 32 slots, by one warp: the time from the launch to the first request for weights counts.
template <class Shape>
__device__ inline void make_small_table(const StreamArgs& a, StreamTable& t, int slots) {
  constexpr unsigned kAll = 0xFFFFFFFFu;
  const int lane = threadIdx.x & 31;
  const SlotExpert own(a, lane, slots);
  const unsigned before = (1u << lane) - 1, same = __match_any_sync(kAll, own.expert);
  const int rank = __popc(same & before);
  const bool leads = own.expert >= 0 && rank % Shape::kTokens == 0;
  const unsigned leaders = __ballot_sync(kAll, leads);
  int sum = leads ? own.bands : 0;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const int other = __shfl_sync(kAll, sum, lane - d);
    if (lane >= d) sum += other;
  }
  if (lane == 31) {
    t.segment_count = __popc(leaders);
    t.run.start(static_cast<unsigned>(sum * (a.layer.hidden / kBand)), Shape::kCtas);
  }
  if (lane >= slots) return;
  t.place[lane] = -1;
  if (own.expert < 0) return;
  // The leader of a slot's segment is the last one of its expert that does not come after it.
  const int leader = 31 - __clz(static_cast<int>(same & leaders & (before << 1 | 1)));
  const int s = __popc(leaders & ((1u << leader) - 1));
  t.place[lane] = kSegmentTokens * s + rank % Shape::kTokens;
  t.segments[s].slots[rank % Shape::kTokens] = static_cast<short>(lane);
  if (!leads) return;
  t.segments[s].expert = own.expert;
  t.segments[s].bits = own.bits;
  t.segments[s].first_band = sum - own.bands;
  t.segments[s].bands = own.bands;
  t.segments[s].count = min(__popc(same) - rank, Shape::kTokens);
}

// All threads of the CTA. A slot leads a segment if a multiple of Shape::kTokens of its expert's slots precede it.
template <class Shape>
__device__ inline void make_table(const StreamArgs& a, StreamTable& t) {
  const int slots = a.call.tokens * a.slots_per_token, i = threadIdx.x;
  if (slots <= 32) {
    if (i < 32) make_small_table<Shape>(a, t, slots);
    __syncthreads();
    return;
  }
  const SlotExpert own(a, i, slots);
  const int expert = own.expert;
  if (i < slots) t.expert[i] = expert;
  __syncthreads();
  int rank = 0, leader = i;
  if (expert >= 0) {
    for (int j = 0; j < i; ++j) {
      if (t.expert[j] != expert) continue;
      if (rank % Shape::kTokens == 0) leader = j;
      ++rank;
    }
    if (rank % Shape::kTokens == 0) leader = i;
  }
  if (i < slots) {
    t.leader[i] = expert < 0 ? -1 : leader;
    t.bands_of[i] = own.bands;
    t.bits_of[i] = own.bits;
  }
  __syncthreads();
  if (i < 32) number_segments<Shape::kCtas>(t, slots, a.layer.hidden / kBand);
  __syncthreads();
  if (i < slots) {
    int place = -1;
    if (expert >= 0) {
      const int s = t.segment_of[leader], token = rank % Shape::kTokens;
      t.segments[s].slots[token] = static_cast<short>(i);
      atomicMax(&t.segments[s].count, token + 1);
      place = kSegmentTokens * s + token;
    }
    t.place[i] = place;
  }
  __syncthreads();
}

// What a run has of one item: `count` blocks of one band of one segment. Its sums are stored at item + CTA, which no
// other piece of the phase shares: from one piece to the next the item or the CTA grows.
struct Piece {
  int segment = 0, item = 0, band = 0, begin = 0, count = 0;
};

// The piece that starts at unit `at`, which moves to the next one; false at the end.
__device__ inline bool next_piece(const StreamTable& t, int hidden_blocks, bool down, int end, int& at, Piece& p) {
  if (at >= end) return false;
  while (p.segment + 1 < t.segment_count && t.segments[p.segment + 1].first_band * hidden_blocks <= at) ++p.segment;
  const StreamSegment& s = t.segments[p.segment];
  const int local = at - s.first_band * hidden_blocks, blocks = down ? s.bands : hidden_blocks;
  p.band = local / blocks;
  p.begin = local % blocks;
  p.count = min(blocks - p.begin, end - at);
  p.item = down ? p.segment * hidden_blocks + p.band : s.first_band + p.band;
  at += p.count;
  return true;
}

// Of two teams, what each has of a piece of down. before: units of the run that precede the piece. The odd block goes
// to the team that has fewer so far.
__device__ __forceinline__ int first_half(int before, int count) {
  return (count + 1 - (before & 1)) / 2;
}

}  // namespace fairway::kernels::cuda
