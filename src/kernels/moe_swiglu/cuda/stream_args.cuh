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
// piece of down. And warps that load: each the same tile rows of every unit of one team. An expert is decoded once for
// kTokens tokens.
template <int kTokenCount, int kTeamCount, int kCtaCount>
struct StreamShape {
  static constexpr int kTokens = kTokenCount;  // of a segment, at most
  static constexpr int kTeams = kTeamCount;
  static constexpr int kCtas = kCtaCount;  // of an SM
  static constexpr int kWarps = kTeams * kTeamWarps;
  static constexpr int kComputeThreads = 32 * kWarps;
  // One warp starts a copy of a tile row every 100 cycles or so, and eight warps decode a unit of eight in 1300.
  static constexpr int kLoaders = kCtas == 1 ? 2 * kTeams : kTeams;
  static constexpr int kThreads = kComputeThreads + 32 * kLoaders;
  // Of sums: with two, no warp waits for the last one to be done with those of the piece before.
  static constexpr int kBuffers = kCtas == 1 ? 2 : 1;
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
  int first_cost;         // sum of bands * unit cost of the segments before
  int count;
  short slots[kSegmentTokens];
};

// What a unit costs, relative to others. One of up to eight tokens takes 4/3 of the time of one of up to four, and its
// inputs take twice the time to make.
constexpr int kMostUnitCost = 3;
template <class Shape>
__device__ __forceinline__ int unit_cost(int tokens) {
  return Shape::kTokens == 4 ? 1 : tokens > 4 ? kMostUnitCost : 2;
}

// The units of both phases: `bands` times the blocks of the hidden size. Gate and up run through segment, band of the
// intermediate size, block of the hidden size; down through segment, band of the hidden size, block of the intermediate
// one. A unit's place is the sum of the costs of those before it. In shared memory, to spare registers.
struct Run {
  unsigned places;                   // sum of the costs of all units
  unsigned factor, addend, divisor;  // see owner()
  float inverse;                     // of the divisor
  int begin, end;                    // units

  // With one CTA on an SM, every CTA but the last has the same cost, the least that suffices: shares are more often a
  // whole part of an item than proportional ones would be, and fewer CTAs depend on each other. With more, an SM's
  // share is the sum over its CTAs, which is more even if shares are proportional. The products are below 2^32.
  // Units of different costs: begin and end are at the end of the last unit until locate() finds them.
  template <class Shape>
  __device__ void start(unsigned units, unsigned cost) {
    places = cost;
    const unsigned ctas = max(min(gridDim.x, places), 1u);
    if (Shape::kCtas == 1) {
      divisor = max((places + gridDim.x - 1) / gridDim.x, Shape::kTokens == 4 ? 1u : unsigned{kMostUnitCost});
      factor = 1;
      addend = 0;
      begin = static_cast<int>(Shape::kTokens == 4 ? min(blockIdx.x * divisor, units) : units);
      end = static_cast<int>(Shape::kTokens == 4 ? min((blockIdx.x + 1) * divisor, units) : units);
    } else {
      divisor = max(places, 1u);
      factor = ctas;
      addend = ctas - 1;
      begin = static_cast<int>(min(blockIdx.x, ctas) * places / ctas);
      end = static_cast<int>(min(blockIdx.x + 1, ctas) * places / ctas);
    }
    inverse = __fdividef(1.0f, static_cast<float>(divisor));
  }
  // Of one segment, whether the run begins or ends in it.
  __device__ void locate(const StreamSegment& s, int cost, int hidden_blocks) {
    const unsigned first = static_cast<unsigned>(s.first_cost * hidden_blocks);
    const unsigned own = static_cast<unsigned>(s.bands * hidden_blocks * cost);
    const unsigned from = blockIdx.x * divisor - first, to = from + divisor;  // below own: in the segment
    const auto unit = [&](unsigned place) {
      return s.first_band * hidden_blocks + (static_cast<int>(place) + cost - 1) / cost;
    };
    if (from < own) begin = unit(from);
    if (to < own) end = unit(to);
  }
  // The CTA that has the unit at a place.
  __device__ __forceinline__ int owner(int place) const {
    const unsigned n = static_cast<unsigned>(place) * factor + addend;
    int quotient = static_cast<int>(static_cast<float>(n) * inverse);  // at most one off: it is below 2^16
    const int rest = static_cast<int>(n - static_cast<unsigned>(quotient) * divisor);
    if (rest < 0) --quotient;
    if (rest >= static_cast<int>(divisor)) ++quotient;
    return quotient;
  }
};

struct StreamTable {
  unsigned launch;  // its number
  int segment_count;
  Run run;
  StreamSegment segments[kStreamSlots];
  int place[kStreamSlots];  // of a slot: kSegmentTokens * segment + token, or -1
  // While the table is made: experts by slot, and by the first slot of an expert what its segments start with.
  alignas(16) int expert[kStreamSlots];
  int segment_of[kStreamSlots], band_of[kStreamSlots], cost_of[kStreamSlots];
};

// Place of a segment's unit.
template <class Shape>
__device__ __forceinline__ int unit_place(const StreamSegment& s, int hidden_blocks, int unit) {
  return s.first_cost * hidden_blocks + unit * unit_cost<Shape>(s.count);
}
// The CTA that has a segment's unit.
template <class Shape>
__device__ __forceinline__ int unit_owner(const StreamTable& t, const StreamSegment& s, int hidden_blocks, int unit) {
  return t.run.owner(unit_place<Shape>(s, hidden_blocks, unit));
}
// The CTAs that have any unit; at least 1.
template <class Shape>
__device__ __forceinline__ int working_ctas(const StreamTable& t, int hidden_blocks) {
  if (t.segment_count == 0) return 1;
  const StreamSegment& s = t.segments[t.segment_count - 1];
  return unit_owner<Shape>(t, s, hidden_blocks, s.bands * hidden_blocks - 1) + 1;
}

__device__ __forceinline__ int segment_bits(const StreamSegment& s, int matrix) {
  return s.bits >> (8 * matrix) & 255;
}

// Sums over the lanes up to this one.
__device__ __forceinline__ int sum_of_lanes(int own) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  int sum = own;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const int before = __shfl_sync(0xFFFFFFFFu, sum, lane - d);
    if (lane >= d) sum += before;
  }
  return sum;
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
  const int sum = sum_of_lanes(leads ? own.bands : 0);
  if (lane == 31) {
    t.segment_count = __popc(leaders);
    const unsigned units = static_cast<unsigned>(sum * (a.layer.hidden / kBand));
    t.run.start<Shape>(units, units);
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
  t.segments[s].first_band = t.segments[s].first_cost = sum - own.bands;
  t.segments[s].bands = own.bands;
  t.segments[s].count = min(__popc(same) - rank, Shape::kTokens);
}

// Of a slot: how many slots of its expert come before it, how many there are, and the first.
struct SlotRank {
  int rank = 0, all = 0, first = kStreamSlots;

  // experts: of all slots, then -1 up to a multiple of four.
  __device__ SlotRank(const int* experts, int slots, int slot, int expert) {
#pragma unroll 2
    for (int j = 0; j < slots; j += 4) {
      const int4 four = *reinterpret_cast<const int4*>(experts + j);
      const int e[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (e[k] != expert) continue;
        first = min(first, j + k);
        rank += j + k < slot;
        ++all;
      }
    }
  }
};

// What the segments of an expert sum up to.
template <class Shape>
struct ExpertSums {
  int segments, bands, cost;

  __device__ ExpertSums(int tokens, int bands_of_one) {
    segments = (tokens + Shape::kTokens - 1) / Shape::kTokens;
    bands = segments * bands_of_one;
    const int full = tokens / Shape::kTokens, rest = tokens % Shape::kTokens;
    cost = bands_of_one * (full * unit_cost<Shape>(Shape::kTokens) + (rest > 0 ? unit_cost<Shape>(rest) : 0));
  }
};

// All threads of the CTA. The segments of an expert follow each other, the experts in the order of their first slots.
template <class Shape>
__device__ inline void make_table(const StreamArgs& a, StreamTable& t) {
  const int slots = a.call.tokens * a.slots_per_token, i = threadIdx.x, hidden_blocks = a.layer.hidden / kBand;
  if (Shape::kTokens == 4 && slots <= 32) {
    if (i < 32) make_small_table<Shape>(a, t, slots);
    __syncthreads();
    return;
  }
  const SlotExpert own(a, i, slots);
  if (i < (slots + 3) / 4 * 4) t.expert[i] = own.expert;
  __syncthreads();
  const bool used = own.expert >= 0;
  const SlotRank rank(t.expert, used ? slots : 0, i, own.expert);
  if (i < slots) t.segment_of[i] = used && rank.first == i ? rank.all : 0;
  if (i < slots) t.band_of[i] = own.bands;
  __syncthreads();
  if (i < 32) {
    int segments = 0, bands = 0, cost = 0;
    for (int begin = 0; begin < slots; begin += 32) {
      const int slot = begin + i;
      const bool leads = slot < slots && t.segment_of[slot] > 0;
      const ExpertSums<Shape> sums(leads ? t.segment_of[slot] : 0, leads ? t.band_of[slot] : 0);
      const int s = sum_of_lanes(sums.segments), b = sum_of_lanes(sums.bands), c = sum_of_lanes(sums.cost);
      if (leads) {
        t.segment_of[slot] = segments + s - sums.segments;
        t.band_of[slot] = bands + b - sums.bands;
        t.cost_of[slot] = cost + c - sums.cost;
      }
      segments += __shfl_sync(0xFFFFFFFFu, s, 31);
      bands += __shfl_sync(0xFFFFFFFFu, b, 31);
      cost += __shfl_sync(0xFFFFFFFFu, c, 31);
    }
    if (i == 0) {
      t.segment_count = segments;
      t.run.start<Shape>(static_cast<unsigned>(bands * hidden_blocks), static_cast<unsigned>(cost * hidden_blocks));
    }
  }
  __syncthreads();
  if (i < slots) {
    t.place[i] = -1;
    if (used) {
      const int before = rank.rank / Shape::kTokens, token = rank.rank % Shape::kTokens;
      StreamSegment& s = t.segments[t.segment_of[rank.first] + before];
      s.slots[token] = static_cast<short>(i);
      t.place[i] = kSegmentTokens * (t.segment_of[rank.first] + before) + token;
      if (token == 0) {
        s.expert = own.expert;
        s.bits = own.bits;
        s.bands = own.bands;
        s.first_band = t.band_of[rank.first] + before * own.bands;
        s.first_cost = t.cost_of[rank.first] + before * own.bands * unit_cost<Shape>(Shape::kTokens);
        s.count = min(rank.all - rank.rank, Shape::kTokens);
        if (Shape::kTokens > 4) t.run.locate(s, unit_cost<Shape>(s.count), hidden_blocks);
      }
    }
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
