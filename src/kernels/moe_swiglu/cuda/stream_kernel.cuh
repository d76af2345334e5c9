// The kernel that computes a call of few tokens in one launch; see stream_args.cuh for how work is cut.
#pragma once

#include "kernels/moe_swiglu/cuda/stream_input.cuh"
#include "kernels/moe_swiglu/cuda/stream_load.cuh"

namespace fairway::kernels::cuda {

// Shared memory of a CTA: the stages of the ring, this, the input digits.
struct alignas(16) StreamShared {
  RingBarriers barriers;
  InputFacts facts[2];
  alignas(16) StreamTable table;
  alignas(16) float sums[2 * kIntRowParts][kSegmentTokens][kInnerStride];
};

// Clock cycles at the ends of the stages of a CTA, for MoeCall::stamps.
__device__ __forceinline__ void stamp(const StreamArgs& a, int stage) {
  if (a.call.stamps != nullptr && threadIdx.x == 0) {
    a.call.stamps[blockIdx.x * kMoeStamps + stage] = cycle_counter();
  }
}

// One warp's share of `blocks` units of its team; the sums go to sums[row part].
__device__ inline void compute_units(const StreamArgs& a, int bits, int blocks, const unsigned char* input,
                                     int input_step, RingCursor& ring, float (*sums)[kSegmentTokens][kInnerStride]) {
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
  float* own = sums[warp % kTeamWarps >> 1][lane & 3] + (warp & 1) * kIntTiles * 16 + (lane >> 2);
#pragma unroll
  for (int tile = 0; tile < kIntTiles; ++tile) {
    const int* c = acc[tile][0];
    own[16 * tile] = fmaf(128.0f, static_cast<float>(c[0]), static_cast<float>(c[1]));
    own[16 * tile + 8] = fmaf(128.0f, static_cast<float>(c[2]), static_cast<float>(c[3]));
  }
}

constexpr float kMul1Scale = codec::kMul1ScaleNumerator / 262144.0f;  // 2^18
constexpr float kMul1Bias = 1024 * kMul1Scale + codec::kMul1BiasNumerator / 262144.0f;

// From sums of n * digit to sums of weight * input. The bias of a whole row is added by the piece that begins it.
__device__ __forceinline__ float from_fixed_point(const InputFacts& f, int matrix, int token, const Piece& p,
                                                  float sum) {
  const float unit = __int_as_float(f.largest[matrix][token]) * (1.0f / kDigitMax);
  const float bias = p.begin == 0 ? kMul1Bias * static_cast<float>(f.digit_sum[matrix][token]) : 0.0f;
  return unit * fmaf(kMul1Scale, sum, bias);
}

template <class Shape>
__device__ inline void finish_gate_up_piece(const StreamArgs& a, const StreamSegment& s, const Piece& p,
                                            const InputFacts& facts, const StreamShared& shared) {
  float* out = a.gate_up + static_cast<std::size_t>(p.item + blockIdx.x) * (2 * kSegmentTokens * kBand);
  for (int i = threadIdx.x; i < 2 * s.count * kBand; i += Shape::kComputeThreads) {
    const int column = i % kBand, matrix = i / kBand & 1, token = i / (2 * kBand);
    float sum = 0;
#pragma unroll
    for (int part = 0; part < kIntRowParts; ++part) sum += shared.sums[matrix * kIntRowParts + part][token][column];
    out[(matrix * kSegmentTokens + token) * kBand + column] =
        from_fixed_point(facts, a.layer.common_suh != nullptr ? 0 : matrix, token, p, sum);
  }
}

template <class Shape>
__device__ inline void finish_down_piece(const StreamArgs& a, const StreamSegment& s, const Piece& p,
                                         const InputFacts& facts, const StreamShared& shared) {
  const int token = threadIdx.x >> 5, lane = threadIdx.x & 31;
  if (token >= s.count) return;
  float v[4] = {};
#pragma unroll
  for (int part = 0; part < Shape::kTeams * kIntRowParts; ++part) {
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

// The weights of one piece.
template <class Shape>
__device__ __forceinline__ void walk_gate_up(const StreamArgs& a, const ExpertRef& e, const Piece& p,
                                             const StreamInput& in, RingCursor& ring, StreamShared& shared) {
  const int team = threadIdx.x / (32 * kTeamWarps);
#pragma unroll 1
  for (int matrix = team; matrix < 2; matrix += Shape::kTeams) {
    const int input = a.layer.common_suh != nullptr ? 0 : matrix;
    compute_units(a, matrix == 0 ? e.gate.bits : e.up.bits, p.count,
                  in.digits + input_column(input, 0) * a.input_stride + p.begin * kBand, kBand, ring,
                  shared.sums + matrix * kIntRowParts);
  }
}
// before: units of the run that precede the piece.
template <class Shape>
__device__ __forceinline__ void walk_down(const StreamArgs& a, const ExpertRef& e, const Piece& p, int before,
                                          const StreamInput& in, RingCursor& ring, StreamShared& shared) {
  const int team = threadIdx.x / (32 * kTeamWarps), first = (before + team) % Shape::kTeams;
  compute_units(a, e.down.bits, (p.count + Shape::kTeams - 1 - first) / Shape::kTeams,
                in.digits + (p.begin + first) * kBand, Shape::kTeams * kBand, ring, shared.sums + team * kIntRowParts);
}

// All pieces of one phase. Ends with a barrier of the computing warps.
template <class Shape, bool kDown>
__device__ void compute_phase(const StreamArgs& a, const Run& run, StreamInput& in, RingCursor& ring,
                              StreamShared& shared) {
  Piece p;
  int prepared = -1, at = run.begin;
  while (next_piece(shared.table, a.layer.hidden / kBand, kDown, run.end, at, p)) {
    const StreamSegment& s = shared.table.segments[p.segment];
    const ExpertRef& e = a.layer.experts[s.expert];
    if (p.segment != prepared) prepare_segment<Shape, kDown>(a, run, s, in);
    if (p.segment != prepared && prepared < 0) stamp(a, kDown ? 4 : 1);
    prepared = p.segment;
    if constexpr (kDown) {
      walk_down<Shape>(a, e, p, at - p.count - run.begin, in, ring, shared);
    } else {
      walk_gate_up<Shape>(a, e, p, in, ring, shared);
    }
    consumer_sync<Shape::kComputeThreads>();
    if constexpr (kDown) {
      finish_down_piece<Shape>(a, s, p, in.facts[in.set], shared);
    } else {
      finish_gate_up_piece<Shape>(a, s, p, in.facts[in.set], shared);
    }
    consumer_sync<Shape::kComputeThreads>();
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

template <class Shape>
__device__ inline void compute_run(const StreamArgs& a, const Run& run, RingCursor ring, unsigned char* digits,
                                   StreamShared& shared) {
  StreamInput in{digits, shared.facts};
  unsigned arrival = 0;
  compute_phase<Shape, false>(a, run, in, ring, shared);
  stamp(a, 2);
  if (threadIdx.x == 0) grid_wait(a.arrivals, grid_arrive(a.arrivals));
  consumer_sync<Shape::kComputeThreads>();
  stamp(a, 3);
  compute_phase<Shape, true>(a, run, in, ring, shared);
  stamp(a, 5);
  if (threadIdx.x == 0) arrival = grid_arrive(a.arrivals + 1);
  const int bands = a.layer.hidden / kBand, units = a.call.tokens * bands;
  if (static_cast<int>(blockIdx.x) < units) {
    if (threadIdx.x == 0) grid_wait(a.arrivals + 1, arrival);
    consumer_sync<Shape::kComputeThreads>();
    stamp(a, 6);
    for (int unit = blockIdx.x + (threadIdx.x >> 5) * gridDim.x; unit < units; unit += Shape::kWarps * gridDim.x) {
      sum_pieces(a, run, shared.table, unit / bands, unit % bands);
    }
  }
  stamp(a, 7);
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kCtas) stream_kernel(const __grid_constant__ StreamArgs a) {
  extern __shared__ __align__(128) unsigned char memory[];
  auto& shared = *reinterpret_cast<StreamShared*>(memory + a.ring_stages * a.stage_bytes);
  unsigned char* digits = reinterpret_cast<unsigned char*>(&shared + 1);
  ring_init(&shared.barriers, a.ring_stages, kTeamWarps);
  if (threadIdx.x < 2 * sizeof(InputFacts) / sizeof(int)) reinterpret_cast<int*>(shared.facts)[threadIdx.x] = 0;
  if (a.layer.common_suh != nullptr) {
    for (int i = 64 * threadIdx.x; i < a.layer.hidden; i += 64 * Shape::kThreads) prefetch_l2(a.layer.common_suh + i);
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  stamp(a, 8);
  make_table(a, shared.table);
  stamp(a, 0);
  const Run& run = shared.table.run;
  RingCursor ring{memory, &shared.barriers, a.ring_stages, a.stage_bytes};
  if (threadIdx.x >= Shape::kComputeThreads) {
    load_run<Shape>(a, shared.table, run, ring);
  } else {
    ring.stage = threadIdx.x / (32 * kTeamWarps);
    ring.step = Shape::kTeams;
    compute_run<Shape>(a, run, ring, digits, shared);
  }
}

}  // namespace fairway::kernels::cuda
