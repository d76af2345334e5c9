// The kernel that computes a call of few tokens in one launch; see stream_args.cuh for how work is cut.
#pragma once

#include "kernels/moe_swiglu/cuda/stream_input.cuh"

namespace fairway::kernels::cuda {

// Shared memory of a CTA: the stages of the ring, this, the input digits.
struct alignas(16) StreamShared {
  RingBarriers barriers;
  InputFacts facts[2];
  alignas(16) StreamTable table;
  alignas(16) float sums[kStreamTeams * kIntRowParts][kSegmentTokens][kInnerStride];
};

// Clock cycles at the ends of the stages of a CTA, for MoeCall::stamps.
__device__ __forceinline__ void stamp(const StreamArgs& a, int stage) {
  if (a.call.stamps != nullptr && threadIdx.x == 0) {
    a.call.stamps[blockIdx.x * kMoeStamps + stage] = cycle_counter();
  }
}

__device__ __forceinline__ void load_unit(RingCursor& ring, const unsigned char* words, int band_bytes) {
  const int lane = threadIdx.x & 31;
  ring.wait_empty();
  if (lane == 0) barrier_expect(ring.full(), kBandTiles * band_bytes);
  __syncwarp();
  if (lane < kBandTiles) bulk_load(ring.data() + lane * band_bytes, words, band_bytes, ring.full());
  ring.advance();
}

// One lane's reading position in a matrix.
struct UnitSource {
  const unsigned char* words;
  std::size_t block_bytes;
  int band_bytes;

  __device__ UnitSource(const TrellisRef& m, int out, const Piece& p)
      : block_bytes(std::size_t{2 * kBandTiles} * static_cast<unsigned>(out * m.bits)), band_bytes(2 * kBand * m.bits) {
    const int row = p.begin * kBandTiles + static_cast<int>(threadIdx.x & (kBandTiles - 1));
    words = m.words + block_bytes / kBandTiles * static_cast<unsigned>(row) +
            static_cast<std::size_t>(p.band) * static_cast<unsigned>(band_bytes);
  }
  __device__ void load(RingCursor& ring) {
    load_unit(ring, words, band_bytes);
    words += block_bytes;
  }
};

// The vectors that the second phase will scale with, so that they wait in the L2 cache.
__device__ inline void prefetch_scales(const StreamArgs& a, const StreamTable& t, const Run& run) {
  constexpr int kLine = 64;  // halves
  Piece p;
  for (int at = run.begin, before = -1; next_piece(t, a.layer.hidden / kBand, true, run.end, at, p);) {
    const StreamSegment& s = t.segments[p.segment];
    const ExpertRef& e = a.layer.experts[s.expert];
    const int lane = threadIdx.x & 31;
    if (lane < kBand / kLine) prefetch_l2(e.down.svh + p.band * kBand + lane * kLine);
    if (p.segment == before) continue;
    before = p.segment;
    for (int i = lane * kLine; i < s.bands * kBand; i += 32 * kLine) {
      prefetch_l2(e.gate.svh + i);
      prefetch_l2(e.up.svh + i);
      prefetch_l2(e.down.suh + i);
    }
  }
}

// The loading warp: the units of both phases, as far as the ring has room; the barrier is none of its business.
__device__ inline void load_run(const StreamArgs& a, const StreamTable& t, const Run& run, RingCursor ring) {
  const int hidden_blocks = a.layer.hidden / kBand;
  Piece p;
  for (int at = run.begin; next_piece(t, hidden_blocks, false, run.end, at, p);) {
    const StreamSegment& s = t.segments[p.segment];
    const ExpertRef& e = a.layer.experts[s.expert];
    UnitSource gate(e.gate, s.bands * kBand, p), up(e.up, s.bands * kBand, p);
    for (int block = 0; block < p.count; ++block) {
      gate.load(ring);
      up.load(ring);
    }
  }
  prefetch_scales(a, t, run);
  p = {};
  for (int at = run.begin; next_piece(t, hidden_blocks, true, run.end, at, p);) {
    UnitSource down(a.layer.experts[t.segments[p.segment].expert].down, a.layer.hidden, p);
    for (int block = 0; block < p.count; ++block) down.load(ring);
  }
}

// One warp's share of `blocks` units of its team, the sums put where the other warps find them.
__device__ inline void compute_units(const StreamArgs& a, int bits, int blocks, const unsigned char* input,
                                     int input_step, RingCursor& ring, StreamShared& shared) {
  int acc[kIntTiles][1][4] = {};
  switch (bits) {
#define FAIRWAY_CASE(bits)                                                   \
  case bits:                                                                 \
    walk_int<bits, 1>(ring, blocks, input, a.input_stride, input_step, acc); \
    break;
    FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
  }
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  float* sums = shared.sums[warp >> 1][lane & 3] + (warp & 1) * kIntTiles * 16 + (lane >> 2);
#pragma unroll
  for (int tile = 0; tile < kIntTiles; ++tile) {
    const int* c = acc[tile][0];
    sums[16 * tile] = fmaf(128.0f, static_cast<float>(c[0]), static_cast<float>(c[1]));
    sums[16 * tile + 8] = fmaf(128.0f, static_cast<float>(c[2]), static_cast<float>(c[3]));
  }
}

constexpr float kMul1Scale = codec::kMul1ScaleNumerator / 262144.0f;  // 2^18
constexpr float kMul1Bias = 1024 * kMul1Scale + codec::kMul1BiasNumerator / 262144.0f;

// From sums of n * digit to sums of weight * input. The bias of a whole row is added by the piece that begins it.
__device__ __forceinline__ float from_fixed_point(const InputFacts& f, int matrix, int token, const Piece& p, float sum) {
  const float unit = __int_as_float(f.largest[matrix][token]) * (1.0f / kDigitMax);
  const float bias = p.begin == 0 ? kMul1Bias * static_cast<float>(f.digit_sum[matrix][token]) : 0.0f;
  return unit * fmaf(kMul1Scale, sum, bias);
}

__device__ inline void finish_gate_up_piece(const StreamArgs& a, const StreamSegment& s, const Piece& p,
                                            const InputFacts& facts, const StreamShared& shared) {
  float* out = a.gate_up + static_cast<std::size_t>(p.item + blockIdx.x) * (2 * kSegmentTokens * kBand);
  for (int i = threadIdx.x; i < 2 * s.count * kBand; i += kStreamComputeThreads) {
    const int column = i % kBand, matrix = i / kBand & 1, token = i / (2 * kBand);
    float sum = 0;
#pragma unroll
    for (int part = 0; part < kIntRowParts; ++part) sum += shared.sums[matrix * kIntRowParts + part][token][column];
    out[(matrix * kSegmentTokens + token) * kBand + column] =
        from_fixed_point(facts, a.layer.common_suh != nullptr ? 0 : matrix, token, p, sum);
  }
}

__device__ inline void finish_down_piece(const StreamArgs& a, const StreamSegment& s, const Piece& p,
                                         const InputFacts& facts, const StreamShared& shared) {
  const int token = threadIdx.x >> 5, lane = threadIdx.x & 31;
  if (token >= s.count) return;
  float v[4] = {};
#pragma unroll
  for (int part = 0; part < kStreamTeams * kIntRowParts; ++part) {
    const float4 one = *reinterpret_cast<const float4*>(&shared.sums[part][token][4 * lane]);
    v[0] += one.x;
    v[1] += one.y;
    v[2] += one.z;
    v[3] += one.w;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) v[j] = from_fixed_point(facts, 0, token, p, v[j]);
  hadamard128(v);
  scale_by(v, a.layer.experts[s.expert].down.svh + p.band * kBand + 4 * lane);
  const float weight = slot_weight(a, s.slots[token]);
  float* out = a.down + (static_cast<std::size_t>(p.item + blockIdx.x) * kSegmentTokens + token) * kBand;
  *reinterpret_cast<float4*>(out + 4 * lane) = make_float4(v[0] * weight, v[1] * weight, v[2] * weight, v[3] * weight);
}

// All pieces of one phase. Ends with a barrier of the computing warps.
template <bool kDown>
__device__ void compute_phase(const StreamArgs& a, const Run& run, StreamInput& in, RingCursor& ring,
                              StreamShared& shared) {
  const int team = threadIdx.x / (32 * kTeamWarps);
  Piece p;
  int prepared = -1, at = run.begin;
  while (next_piece(shared.table, a.layer.hidden / kBand, kDown, run.end, at, p)) {
    const StreamSegment& s = shared.table.segments[p.segment];
    const ExpertRef& e = a.layer.experts[s.expert];
    if (p.segment != prepared) prepare_segment<kDown>(a, run, s, in);
    if (p.segment != prepared && prepared < 0) stamp(a, kDown ? 4 : 1);
    prepared = p.segment;
    const InputFacts& facts = in.facts[in.set];
    if constexpr (kDown) {  // a team takes every other unit, counted from the start of the run
      const int first = (at - p.count - run.begin + team) & 1;
      compute_units(a, e.down.bits, (p.count + 1 - first) / 2, in.digits + (p.begin + first) * kBand, 2 * kBand, ring,
                    shared);
    } else {  // a team takes one of the two matrices
      const int matrix = a.layer.common_suh != nullptr ? 0 : team;
      compute_units(a, team == 0 ? e.gate.bits : e.up.bits, p.count,
                    in.digits + input_column(matrix, 0) * a.input_stride + p.begin * kBand, kBand, ring, shared);
    }
    consumer_sync<kStreamComputeThreads>();
    if constexpr (kDown) {
      finish_down_piece(a, s, p, facts, shared);
    } else {
      finish_gate_up_piece(a, s, p, facts, shared);
    }
    consumer_sync<kStreamComputeThreads>();
  }
}

// y = the sums over the slots of a token and the pieces of a slot's item, in order. One warp: a band of a token.
__device__ inline void sum_pieces(const StreamArgs& a, const Run& run, const StreamTable& t, int token, int band) {
  const int lane = threadIdx.x & 31, hidden_blocks = a.layer.hidden / kBand;
  float4 sum = make_float4(0, 0, 0, 0);
  for (int begin = 0; begin < a.slots_per_token; begin += 32) {
    const int own = begin + lane;
    int place = -1, item = 0, first = 0, last = -1;
    if (own < a.slots_per_token) place = t.place[token * a.slots_per_token + own];
    if (place >= 0) {
      const StreamSegment& s = t.segments[place / kSegmentTokens];
      const int unit = s.first_band * hidden_blocks + band * s.bands;
      item = place / kSegmentTokens * hidden_blocks + band;
      first = run.owner(unit);
      last = run.owner(unit + s.bands - 1);
    }
    for (int j = 0; j < min(32, a.slots_per_token - begin); ++j) {
      const int slot_place = __shfl_sync(0xFFFFFFFFu, place, j), slot_item = __shfl_sync(0xFFFFFFFFu, item, j);
      const int slot_first = __shfl_sync(0xFFFFFFFFu, first, j), slot_last = __shfl_sync(0xFFFFFFFFu, last, j);
      const float* from = a.down + (slot_place & (kSegmentTokens - 1)) * kBand + 4 * lane;
      for (int cta = slot_first; cta <= slot_last; ++cta) {
        const float4 v = load_l2(from + static_cast<std::size_t>(slot_item + cta) * (kSegmentTokens * kBand));
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
      }
    }
  }
  *reinterpret_cast<float4*>(a.call.y + token * a.call.ldy + band * kBand + 4 * lane) = sum;
}

__device__ inline void compute_run(const StreamArgs& a, const Run& run, RingCursor ring, unsigned char* digits,
                                   StreamShared& shared) {
  StreamInput in{digits, shared.facts};
  unsigned arrival = 0;
  compute_phase<false>(a, run, in, ring, shared);
  stamp(a, 2);
  if (threadIdx.x == 0) grid_wait(a.arrivals, grid_arrive(a.arrivals));
  consumer_sync<kStreamComputeThreads>();
  stamp(a, 3);
  compute_phase<true>(a, run, in, ring, shared);
  stamp(a, 5);
  if (threadIdx.x == 0) arrival = grid_arrive(a.arrivals + 1);
  const int bands = a.layer.hidden / kBand, units = a.call.tokens * bands;
  if (static_cast<int>(blockIdx.x) < units) {
    if (threadIdx.x == 0) grid_wait(a.arrivals + 1, arrival);
    consumer_sync<kStreamComputeThreads>();
    stamp(a, 6);
    for (int unit = blockIdx.x + (threadIdx.x >> 5) * gridDim.x; unit < units; unit += kStreamWarps * gridDim.x) {
      sum_pieces(a, run, shared.table, unit / bands, unit % bands);
    }
  }
  stamp(a, 7);
}

template <int kCtas>
__global__ void __launch_bounds__(kStreamThreads, kCtas) stream_kernel(const __grid_constant__ StreamArgs a) {
  extern __shared__ __align__(128) unsigned char memory[];
  auto& shared = *reinterpret_cast<StreamShared*>(memory + a.ring_stages * a.stage_bytes);
  unsigned char* digits = reinterpret_cast<unsigned char*>(&shared + 1);
  if (threadIdx.x == 0) ring_init(&shared.barriers, a.ring_stages, kTeamWarps);
  if (threadIdx.x < 2 * sizeof(InputFacts) / sizeof(int)) reinterpret_cast<int*>(shared.facts)[threadIdx.x] = 0;
  if (a.layer.common_suh != nullptr) {
    for (int i = 64 * threadIdx.x; i < a.layer.hidden; i += 64 * kStreamThreads) prefetch_l2(a.layer.common_suh + i);
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  stamp(a, 8);
  make_table(a, shared.table);
  stamp(a, 0);
  const Run run(shared.table.bands * (a.layer.hidden / kBand));
  RingCursor ring{memory, &shared.barriers, a.ring_stages, a.stage_bytes};
  if (threadIdx.x >= kStreamComputeThreads) {
    load_run(a, shared.table, run, ring);
  } else {
    ring.stage = threadIdx.x / (32 * kTeamWarps);
    ring.step = kStreamTeams;
    compute_run(a, run, ring, digits, shared);
  }
}

}  // namespace fairway::kernels::cuda
