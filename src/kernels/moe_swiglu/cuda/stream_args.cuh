// The stream kernel computes a whole call of few tokens in one launch: gate and up, a barrier of the grid, down,
// another barrier, the sums. Work is cut into units of 128 x 128 weights and every CTA takes an equal run of them,
// whatever experts and bands it crosses. This file: the arguments, the table of segments that every CTA makes for
// itself, and the walk over a CTA's run.
#pragma once

#include "kernels/moe_swiglu/cuda/band_args.cuh"
#include "kernels/moe_swiglu/cuda/hopper.cuh"

namespace fairway::kernels::cuda {

constexpr int kTeamWarps = 8;
constexpr int kSegmentTokens = 4;  // of a segment, at most
constexpr int kStreamSlots = 256;  // of a call, at most

// A CTA has teams of computing warps, which share its units: of two teams one takes gate, one up; of down every other
// unit. And one warp that loads.
template <int kTeamCount, int kCtaCount>
struct StreamShape {
  static constexpr int kTeams = kTeamCount;
  static constexpr int kCtas = kCtaCount;  // of an SM
  static constexpr int kWarps = kTeams * kTeamWarps;
  static constexpr int kComputeThreads = 32 * kWarps;
  static constexpr int kThreads = kComputeThreads + 32;
};
using StreamWide = StreamShape<2, 1>;
using StreamNarrow = StreamShape<1, 3>;

struct StreamArgs : CallArgs {
  float* gate_up;      // [pieces][2][kSegmentTokens][kBand]: sums of a piece of an item, see Piece
  float* down;         // [pieces][kSegmentTokens][kBand]: the same, transformed, scaled and weighted
  unsigned* arrivals;  // [2], zero between calls
  int ring_stages;     // a multiple of the teams
  int stage_bytes;
  int input_stride;  // bytes from one column of the input operand to the next
};

// Up to four tokens of one expert.
struct StreamSegment {
  int expert;
  int first_band, bands;  // of the intermediate size, counted through all segments
  int count;
  int slots[kSegmentTokens];
};

// The units of both phases: `bands` times the blocks of the hidden size. Gate and up run through segment, band of the
// intermediate size, block of the hidden size; down through segment, band of the hidden size, block of the intermediate
// one. In shared memory, to spare registers.
struct Run {
  unsigned units, ctas;  // the CTAs that have any; their product is below 2^32
  int begin, end;

  __device__ void start(int all) {
    units = static_cast<unsigned>(all);
    ctas = max(min(gridDim.x, units), 1u);
    begin = start_of(blockIdx.x);
    end = start_of(blockIdx.x + 1);
  }
  __device__ int start_of(unsigned cta) const { return static_cast<int>(min(cta, ctas) * units / ctas); }
  // The CTA that has a unit.
  __device__ int owner(int unit) const {
    return static_cast<int>(((static_cast<unsigned>(unit) + 1) * ctas - 1) / units);
  }
};

struct StreamTable {
  int segment_count;
  Run run;
  StreamSegment segments[kStreamSlots];
  int place[kStreamSlots];  // of a slot: kSegmentTokens * segment + token, or -1
  // While the table is made:
  int expert[kStreamSlots], leader[kStreamSlots], bands_of[kStreamSlots], segment_of[kStreamSlots];
};

// Numbers the segments in the order of their first slots. One warp.
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
      t.segments[s].first_band = bands + sum - own;
      t.segments[s].bands = own;
      t.segments[s].count = 0;
    }
    segments += __popc(leaders);
    bands += __shfl_sync(0xFFFFFFFFu, sum, 31);
  }
  if (lane == 0) {
    t.segment_count = segments;
    t.run.start(bands * hidden_blocks);
  }
}

// All threads of the CTA. A slot leads a segment if a multiple of kSegmentTokens of its expert's slots precede it.
__device__ inline void make_table(const StreamArgs& a, StreamTable& t) {
  const int slots = a.call.tokens * a.slots_per_token, i = threadIdx.x;
  int expert = -1, bands = 0;
  if (i < slots) {
    expert = slot_expert(a, i);
    t.expert[i] = expert;
    if (expert >= 0) {
      const ExpertRef& ref = a.layer.experts[expert];
      bands = ref.intermediate / kBand;
      prefetch_l2(&ref.gate);
      prefetch_l2(&ref.up);
      prefetch_l2(&ref.down);
    }
  }
  __syncthreads();
  int rank = 0, leader = i;
  if (expert >= 0) {
    for (int j = 0; j < i; ++j) {
      if (t.expert[j] != expert) continue;
      if (rank % kSegmentTokens == 0) leader = j;
      ++rank;
    }
    if (rank % kSegmentTokens == 0) leader = i;
  }
  if (i < slots) {
    t.leader[i] = expert < 0 ? -1 : leader;
    t.bands_of[i] = bands;
  }
  __syncthreads();
  if (i < 32) number_segments(t, slots, a.layer.hidden / kBand);
  __syncthreads();
  if (i < slots) {
    int place = -1;
    if (expert >= 0) {
      const int s = t.segment_of[leader], token = rank % kSegmentTokens;
      t.segments[s].slots[token] = i;
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

// Calls with(CTA) for the CTAs that have a part of the units first .. first + count - 1, in order.
template <class With>
__device__ __forceinline__ void for_each_owner(const Run& run, int first, int count, With with) {
  const int last = run.owner(first + count - 1);
  for (int cta = run.owner(first); cta <= last; ++cta) with(cta);
}

}  // namespace fairway::kernels::cuda
