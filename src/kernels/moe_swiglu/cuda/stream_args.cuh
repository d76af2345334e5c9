// The stream kernel computes a whole call of few tokens in one launch: gate and up, down, the sums. Work is cut into
// units of 128 x 128 weights and every CTA takes an equal run of them, whatever experts and bands it crosses. Of each
// of the first two phases a CTA has the same run of units, so that it waits for few others in between. This file: the
// arguments, the table of segments that every CTA makes for itself, and the walk over a CTA's run.
#pragma once

#include "kernels/common/cuda/hidden.cuh"
#include "kernels/moe_swiglu/cuda/band_args.cuh"
#include "kernels/moe_swiglu/cuda/stream_sync.cuh"

namespace fairway::kernels::cuda {

constexpr int kTeamWarps = 8;
constexpr int kSegmentTokens = 8;    // of a segment, at most, in any shape
constexpr int kStreamSlots = 256;    // of a call, at most
constexpr int kMostEarlySlots = 32;  // of a call in an early launch

// A CTA has teams of computing warps, which share its units: of two teams one takes gate, one up; of down each has half
// of the units of a segment, see TeamShare. And warps that load: each the same tile rows of every unit of one team. An
// expert is decoded once for kTokens tokens.
//
// An early shape begins before the routes are known, see stream_early.cuh.
template <int kTokenCount, int kTeamCount, int kCtaCount, bool kStartsEarly = false>
struct StreamShape {
  static constexpr bool kEarly = kStartsEarly;
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
  static constexpr bool kLinks = kCtas == 1 && kTokens <= kLinkedTokens;  // see StreamArgs::linked
};
using StreamWide = StreamShape<4, 2, 1>;
using StreamWide8 = StreamShape<8, 2, 1>;
using StreamNarrow = StreamShape<4, 1, 3>;
using StreamEarly = StreamShape<4, 2, 1, true>;

// Where the kernel for one token has the weights of its units, in bytes of shared memory: those of unit u of matrix m
// at first[m] + u * step[m]. Gate and up of unit 0 have the highest places, those of unit 1 the next ones below, and
// down in the same order lies above them. Where memory is short, the last units of down reach down to the first of gate
// and up.
struct OneStages {
  int first[3], step[3];  // of gate, up and down
  int bytes;              // of all
  int own_down;           // units of down with places of their own
  int reused;             // units of gate and up whose places are used again
};

struct StreamArgs {
  MoeLayer layer;
  MoeCall call;
  int slots_per_token;
  OneStages one;
  float* gate_up;   // [pieces][2][kSegmentTokens][kBand]: sums of a piece of an item, see Piece
  float* down;      // [pieces][kSegmentTokens][kBand]: the same, transformed, scaled and weighted
  bool linked;      // sums carry the launch's number, see stream_sync.cuh: gate_up and down are not used
  int ring_stages;  // of each team
  int stage_bytes;
  int input_stride;  // bytes from one column of the input operand to the next
};

template <class Shape>
__device__ __forceinline__ bool linked(const StreamArgs& a) {
  return Shape::kLinks && a.linked;
}

// Thread 0 notes when it passes a point, if the call asks for it. What a call that does not ask pays is a comparison
// with a constant at each point. All lanes of a warp come here: where the stamps are is found out by every point for
// itself, and kept in no register between them.
__device__ __forceinline__ void stamp(const StreamArgs& a, MoeStamp point) {
  if (a.call.probe.stamps == nullptr) return;
  const int cta = hidden(static_cast<int>(blockIdx.x));
  if (threadIdx.x == 0) a.call.probe.stamps[cta * kMoeStamps + point] = cycle_counter();
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
  int inputs, cost;       // what its inputs and each of its units cost, see Run
  int first_place;        // of its first unit
  int count;
  short slots[kSegmentTokens];
};

// What a segment costs where CTAs have an SM each, in halves of a unit of up to four tokens: its inputs, once for every
// CTA that has some of it, and each of its units. As measured: 2 us a token and 1 us; 1.5 us or, of more tokens, 2 us
// and another share of the inputs. Where CTAs share an SM, and where there are few slots and runs that end with an item
// matter more, all units cost 1.
template <class Shape>
struct SegmentCost {
  int inputs = 0, unit = 1;
  __device__ explicit SegmentCost(int tokens) {
    if (Shape::kCtas > 1) return;
    inputs = 1 + 3 * tokens;
    unit = tokens > 4 ? 3 : 2;
  }
};
constexpr int kMostUnitCost = 3;

// Units of a segment whose places are less than `past` from its first one's.
__device__ __forceinline__ int units_in(int past, int cost) {
  static_assert(kMostUnitCost == 3);
  if (past <= 0) return 0;
  return cost == 1 ? past : cost == 2 ? (past + 1) / 2 : (past + 2) / 3;
}

// The units of both phases: `bands` times the blocks of the hidden size. Gate and up run through segment, band of the
// intermediate size, block of the hidden size; down through segment, band of the hidden size, block of the intermediate
// one. A unit's place is the sum of the costs of all that comes before it. In shared memory, to spare registers.
struct Run {
  unsigned places;                   // sum of the costs of all units
  unsigned factor, addend, divisor;  // see owner()
  float inverse;                     // of the divisor
  int begin, end;                    // units
  int segment;                       // where the run begins, or one before it

  // With one CTA on an SM, every CTA but the last has the same cost, the least that suffices: shares are more often a
  // whole part of an item than proportional ones would be, and fewer CTAs depend on each other. With more, an SM's
  // share is the sum over its CTAs, which is more even if shares are proportional. The products are below 2^32.
  //
  // The run is empty until locate() has found it. It stays so if no unit has a place in it: then it is between two
  // segments, because units of one segment are no further apart than a run is long.
  template <class Shape>
  __device__ void start(int units, int cost, int most_of_unit) {
    places = static_cast<unsigned>(cost);
    if (Shape::kCtas == 1) {
      divisor = max((places + gridDim.x - 1) / gridDim.x, static_cast<unsigned>(most_of_unit));
      factor = 1;
      addend = 0;
    } else {
      divisor = max(places, 1u);
      factor = max(min(gridDim.x, places), 1u);
      addend = factor - 1;
    }
    inverse = __fdividef(1.0f, static_cast<float>(divisor));
    begin = end = units;
    segment = 0;
  }
  // Of one segment, whether the run begins or ends in it.
  template <class Shape>
  __device__ void locate(const StreamSegment& s, int index, int hidden_blocks) {
    const int own = s.inputs + s.bands * hidden_blocks * s.cost;
    const unsigned before = static_cast<unsigned>(s.first_place - s.inputs);
    const bool proportional = Shape::kCtas > 1;
    const unsigned from = proportional ? min(blockIdx.x, factor) * places / factor : blockIdx.x * divisor;
    const unsigned to = proportional ? min(blockIdx.x + 1, factor) * places / factor : from + divisor;
    const auto unit = [&](unsigned place) {
      return s.first_band * hidden_blocks + units_in(static_cast<int>(place - before) - s.inputs, s.cost);
    };
    if (from - before < static_cast<unsigned>(own)) {
      begin = unit(from);
      segment = index;
    }
    if (to - before < static_cast<unsigned>(own)) end = unit(to);
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
  int place[kStreamSlots];         // of a slot: kSegmentTokens * segment + token, or -1
  float weights[kMostEarlySlots];  // of the slots of an early launch
};

// While the table is made, by expert. It lies where sums will be.
constexpr int kStreamExperts = 1056;
struct ExpertTable {
  uint2 slots[kStreamExperts];  // eight counts: of warp w's slots, a byte
  // Bands and, of gate, up and down, bits: 20 and three times 4 binary places. Later the expert's first segment.
  int facts[kStreamExperts];
};

// The CTA that has a segment's unit.
__device__ __forceinline__ int unit_owner(const StreamTable& t, const StreamSegment& s, int unit) {
  return t.run.owner(s.first_place + unit * s.cost);
}
// Of `count` units of a segment in the run of a CTA of two teams, how many the first team has in down.
__device__ __forceinline__ int first_half(int segment, int count) {
  return (count + 1 - (segment & 1)) / 2;
}
// The team that has a segment's unit in down, counted through all CTAs.
template <class Shape>
__device__ __forceinline__ int team_owner(const StreamTable& t, int segment, int hidden_blocks, int unit) {
  const StreamSegment& s = t.segments[segment];
  const int cta = unit_owner(t, s, unit);
  if (Shape::kTeams == 1) return cta;
  const int past = cta * static_cast<int>(t.run.divisor) - s.first_place;  // runs are of equal cost
  const int begin = units_in(past, s.cost);
  const int end = min(units_in(past + static_cast<int>(t.run.divisor), s.cost), s.bands * hidden_blocks);
  return 2 * cta + (unit - begin >= first_half(segment, end - begin) ? 1 : 0);
}
// The CTAs up to the last that has any unit; at least 1.
__device__ __forceinline__ int working_ctas(const StreamTable& t, int hidden_blocks) {
  if (t.segment_count == 0) return 1;
  const StreamSegment& s = t.segments[t.segment_count - 1];
  return unit_owner(t, s, s.bands * hidden_blocks - 1) + 1;
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

// What is the same whatever the routes are, by `threads` threads. Before the wait for the previous kernel.
__device__ inline void start_table(const StreamArgs& a, ExpertTable& x, int thread, int threads) {
  for (int i = thread; i < a.layer.routed + a.layer.shared; i += threads) {
    // Four sectors at the same time, which then are in the L1 cache for the loading warps.
    const ExpertRef& e = a.layer.experts[i];
    x.facts[i] = e.intermediate / kBand << 12 | e.gate.bits | e.up.bits << 4 | e.down.bits << 8;
    x.slots[i] = make_uint2(0, 0);
  }
}
__device__ __forceinline__ int bands_of(int facts) {
  return facts >> 12;
}
__device__ __forceinline__ int bits_of(int facts) {
  return (facts & 15) | (facts & 15 << 4) << 4 | (facts & 15 << 8) << 8;
}

// The table of at most 32 slots, by one warp: the time from the launch to the first request for weights counts.
template <class Shape>
__device__ inline void make_small_table(const StreamArgs& a, StreamTable& t, const ExpertTable& x, int slots,
                                        int expert) {
  constexpr unsigned kAll = 0xFFFFFFFFu;
  const int lane = threadIdx.x & 31, facts = expert < 0 ? 0 : x.facts[expert];
  const unsigned before = (1u << lane) - 1, same = __match_any_sync(kAll, expert);
  const int rank = __popc(same & before);
  const bool leads = expert >= 0 && rank % Shape::kTokens == 0;
  const unsigned leaders = __ballot_sync(kAll, leads);
  const int sum = sum_of_lanes(leads ? bands_of(facts) : 0), hidden_blocks = a.layer.hidden / kBand;
  if (lane == 31) {
    t.segment_count = __popc(leaders);
    t.run.start<Shape>(sum * hidden_blocks, sum * hidden_blocks, 1);
  }
  __syncwarp();
  if (lane >= slots) return;
  t.place[lane] = -1;
  if (expert < 0) return;
  // The leader of a slot's segment is the last one of its expert that does not come after it.
  const int leader = 31 - __clz(static_cast<int>(same & leaders & (before << 1 | 1)));
  const int s = __popc(leaders & ((1u << leader) - 1));
  t.place[lane] = kSegmentTokens * s + rank % Shape::kTokens;
  t.segments[s].slots[rank % Shape::kTokens] = static_cast<short>(lane);
  if (!leads) return;
  t.segments[s].expert = expert;
  t.segments[s].bits = bits_of(facts);
  t.segments[s].first_band = sum - bands_of(facts);
  t.segments[s].bands = bands_of(facts);
  t.segments[s].inputs = 0;
  t.segments[s].cost = 1;
  t.segments[s].first_place = t.segments[s].first_band * hidden_blocks;
  t.segments[s].count = min(__popc(same) - rank, Shape::kTokens);
  t.run.locate<Shape>(t.segments[s], s, hidden_blocks);
}

// Slots of an expert: of the warps before `warp`.
__device__ __forceinline__ int slots_before(uint2 counts, int warp) {
  constexpr unsigned kOnes = 0x01010101u;
  const unsigned below = (1u << (8 * (warp & 3))) - 1;
  const unsigned low = warp < 4 ? counts.x & below : counts.x;
  const unsigned high = warp < 4 ? 0 : warp < 8 ? counts.y & below : counts.y;
  return static_cast<int>(__dp4a(low, kOnes, __dp4a(high, kOnes, 0u)));
}

// What the segments of an expert of `units` units sum up to.
template <class Shape>
struct ExpertSums {
  int segments, cost;

  __device__ ExpertSums(int tokens, int units) : segments((tokens + Shape::kTokens - 1) / Shape::kTokens) {
    const SegmentCost<Shape> full(Shape::kTokens), last(tokens % Shape::kTokens);
    cost = tokens / Shape::kTokens * (full.inputs + full.unit * units);
    if (tokens % Shape::kTokens > 0) cost += last.inputs + last.unit * units;
  }
};

// Numbers the segments: those of an expert follow each other, in the order of the experts. One warp.
template <class Shape>
__device__ inline void number_segments(const StreamArgs& a, StreamTable& t, ExpertTable& x) {
  const int lane = threadIdx.x & 31, experts = a.layer.routed + a.layer.shared, hidden_blocks = a.layer.hidden / kBand;
  int segments = 0, bands = 0, cost = 0;
  for (int begin = 0; begin < experts; begin += 32) {
    const int expert = begin + lane, facts = expert < experts ? x.facts[expert] : 0;
    const int tokens = expert < experts ? slots_before(x.slots[expert], 8) : 0;
    const int units = bands_of(facts) * hidden_blocks;
    const ExpertSums<Shape> sums(tokens, units);
    const int s = sum_of_lanes(sums.segments), b = sum_of_lanes(sums.segments * bands_of(facts));
    const int c = sum_of_lanes(sums.cost);
    int place = cost + c - sums.cost;
    for (int k = 0; k < sums.segments; ++k) {
      StreamSegment& segment = t.segments[segments + s - sums.segments + k];
      segment.expert = expert;
      segment.bits = bits_of(facts);
      segment.bands = bands_of(facts);
      segment.first_band = bands + b - (sums.segments - k) * bands_of(facts);
      segment.count = min(tokens - k * Shape::kTokens, Shape::kTokens);
      const SegmentCost<Shape> own(segment.count);
      segment.inputs = own.inputs;
      segment.cost = own.unit;
      segment.first_place = place + own.inputs;
      place += own.inputs + own.unit * units;
    }
    if (expert < experts) x.facts[expert] = segments + s - sums.segments;
    segments += __shfl_sync(0xFFFFFFFFu, s, 31);
    bands += __shfl_sync(0xFFFFFFFFu, b, 31);
    cost += __shfl_sync(0xFFFFFFFFu, c, 31);
  }
  if (lane == 0) {
    t.segment_count = segments;
    t.run.start<Shape>(bands * hidden_blocks, cost, Shape::kCtas > 1 ? 1 : kMostUnitCost);
  }
}

// All threads of the CTA, after start_table().
template <class Shape>
__device__ inline void make_table(const StreamArgs& a, StreamTable& t, ExpertTable& x) {
  const int slots = a.call.tokens * a.slots_per_token, i = threadIdx.x, warp = i / 32, lane = i % 32;
  const int expert = i < slots ? slot_expert(a, i) : -1;
  __syncthreads();
  if (Shape::kTokens == 4 && slots <= 32) {
    if (i < 32) make_small_table<Shape>(a, t, x, slots, expert);
    __syncthreads();
    return;
  }
  const unsigned same = __match_any_sync(0xFFFFFFFFu, expert), before = same & ((1u << lane) - 1);
  if (expert >= 0 && before == 0) {
    reinterpret_cast<unsigned char*>(&x.slots[expert])[warp] = static_cast<unsigned char>(__popc(same));
  }
  __syncthreads();
  if (i < 32) number_segments<Shape>(a, t, x);
  __syncthreads();
  if (i < t.segment_count) t.run.locate<Shape>(t.segments[i], i, a.layer.hidden / kBand);
  if (i < slots) {
    t.place[i] = -1;
    if (expert >= 0) {
      const int rank = slots_before(x.slots[expert], warp) + __popc(before);
      const int s = x.facts[expert] + rank / Shape::kTokens, token = rank % Shape::kTokens;
      t.segments[s].slots[token] = static_cast<short>(i);
      t.place[i] = kSegmentTokens * s + token;
    }
  }
  __syncthreads();
}

// What a run has of one item: `count` blocks of one band of one segment. Its sums are stored at item + CTA, in down at
// item + team, counted through all CTAs, which no other piece of the phase shares: from one piece to the next the item
// or the CTA or team grows. Items of down leave out one number between segments, because there the team may become less
// by one.
struct Piece {
  int segment = 0, item = 0, band = 0, begin = 0, count = 0;
};

__device__ __forceinline__ int first_down_item(int segment, int hidden_blocks) {
  return segment * (hidden_blocks + 1);
}

// The piece that starts at unit `at`, which moves to the next one; false at the end. p: the one before, or at first a
// segment to look from. All warps do this for every piece, so one that follows in its segment is found without a
// division.
__device__ inline bool next_piece(const StreamTable& t, int hidden_blocks, bool down, int end, int& at, Piece& p) {
  if (at >= end) return false;
  bool follows = p.count > 0;
  while (p.segment + 1 < t.segment_count && t.segments[p.segment + 1].first_band * hidden_blocks <= at) {
    ++p.segment;
    follows = false;
  }
  const StreamSegment& s = t.segments[p.segment];
  const int blocks = down ? s.bands : hidden_blocks;
  if (follows) {
    ++p.band;
    ++p.item;
    p.begin = 0;
  } else {
    const unsigned local = static_cast<unsigned>(at - s.first_band * hidden_blocks);
    p.band = static_cast<int>(local / static_cast<unsigned>(blocks));
    p.begin = static_cast<int>(local) - p.band * blocks;
    p.item = (down ? first_down_item(p.segment, hidden_blocks) : s.first_band) + p.band;
  }
  p.count = min(blocks - p.begin, end - at);
  at += p.count;
  return true;
}

// What a team has of down in one segment: units begin..end-1, the next segment's begin at `next` or later. Teams have
// no pieces in common, so each goes through its own ones without waiting for the other. One without units, because
// there is one alone, has an empty piece of that one's item: readers look at all pieces from an item's first to its
// last.
struct TeamShare {
  int begin, end, next;

  // Of the run's units from `at` on, which is in the segment.
  template <class Shape>
  static __device__ __forceinline__ TeamShare of(const StreamTable& t, int segment, int hidden_blocks, int team,
                                                 int at) {
    const StreamSegment& s = t.segments[segment];
    const int next = min(t.run.end, (s.first_band + s.bands) * hidden_blocks);
    if (Shape::kTeams == 1) return {at, next, next};
    const int middle = at + first_half(segment, next - at);
    return {team == 0 ? at : min(middle, next - 1), team == 0 ? middle : next - (middle == next ? 1 : 0), next};
  }
  // The piece that starts at unit `at`, as next_piece(), an empty one too.
  __device__ __forceinline__ bool next_piece_of(const StreamTable& t, int hidden_blocks, int& at, Piece& p) const {
    if (!next_piece(t, hidden_blocks, true, max(end, begin + 1), at, p)) return false;
    p.count = min(p.count, end - begin);
    return true;
  }
};

// The segment of unit `at`, which is in `from` or after it.
__device__ __forceinline__ int segment_of(const StreamTable& t, int hidden_blocks, int at, int from) {
  while (from + 1 < t.segment_count && t.segments[from + 1].first_band * hidden_blocks <= at) ++from;
  return from;
}

}  // namespace fairway::kernels::cuda
