// The stream kernel for one token, where what counts is the way of a value through the layer, not the rate of products.
//
// A unit is 128 x 128 weights of gate, those of up, and those of down that begin in the same band of the intermediate
// size: gate and up of band i and block b of the hidden size, down of block i and band b. Every CTA has an equal run of
// units, and keeps all of their weights in shared memory, so nothing waits for room. It needs the inputs of down of the
// bands alone that it has units of, two at most, and the sums of gate and up for them come from the few CTAs that share
// a band. So little is read twice, and the outputs of down are complete sums over a block, which wait for nobody:
//
// - A warp has 16 outputs of a block and all of its inputs: no sums cross warps, and no warp waits for another.
// - Every block of 128 inputs has a fixed point of its own, see one_row_digits.cuh.
// - Two more warps serve the computing ones: they make the table of the run, ask for the weights of down, make the
//   inputs of down and transform its outputs.
// - In the end CTAs without units, or with few, add up the outputs of all units; if those are too few, the serving
//   warps of all do it.
//
// Inputs and routes as in stream_early.cuh; how CTAs wait for each other is in stream_sync.cuh.
#pragma once

#include "kernels/common/cuda/reduce.cuh"
#include "kernels/moe_swiglu/cuda/stream_early.cuh"
#include "kernels/trellis_band/cuda/one_row_digits.cuh"

namespace fairway::kernels::cuda {

constexpr int kOneTeams = 2;
constexpr int kOneWarps = kOneTeams * kTeamWarps;  // that compute
constexpr int kOneComputeThreads = 32 * kOneWarps;
constexpr int kOnePieces = 2;  // bands that a run has a part of, at most; a warp serves each
constexpr int kOneThreads = kOneComputeThreads + 32 * kOnePieces;
// CTAs that start late, because the router has their SMs while it makes the routes: the last ones. They share what the
// others leave.
constexpr int kOneLateShift = 3;
constexpr int kMostOneUnits = 16;                             // of a run
constexpr int kMostOneParts = kLinkedGateUp * kLinkedTokens;  // of bands: places in linked_gate_up
constexpr int kMostOneLayerUnits = 4096;                      // of a layer: places in one_down
constexpr int kOneSumParts = 8;                               // of a band, see sum_one_part()
constexpr int kUnitRows = kBandTiles;                         // a unit's copies: rows of tiles
constexpr int kRowBytesOfBit = 2 * kBand;                     // bytes of such a row for each bit

// Arguments are StreamArgs: ring_stages is the most units that a run may have, stage_bytes those of a matrix's unit.

// The whole part of n / divisor, in a third of the instructions of an integer division. For numbers up to 2^20, with
// quotients up to 2^12: what the factor is wrong by is far less than half of a divisor's inverse.
__device__ __forceinline__ unsigned small_quotient(unsigned n, unsigned divisor) {
  return static_cast<unsigned>((static_cast<float>(n) + 0.5f) * __fdividef(1.0f, static_cast<float>(divisor)));
}

// What a run has of one band: `count` blocks.
struct OnePiece {
  const unsigned char* words[3];  // of gate, up and down: the first row of the first unit
  unsigned row_bytes[3];          // from one row of tiles to the next
  int bits[3];
  int expert, band;  // of its own
  int item;          // the band, counted through all slots
  int count;
  float weight;  // of its slot
};

struct OneTable {
  unsigned launch;
  int begin, count;  // the run's units
  int items, units;  // of all slots: bands, and units
  // Units of a run, of the first CTAs and of the late ones behind them.
  int per_cta, per_late, early_ctas, early_units;
  OnePiece pieces[kOnePieces];

  // The CTA that has a unit.
  __device__ __forceinline__ int owner(int unit) const {
    const bool early = unit < early_units;
    const unsigned local = static_cast<unsigned>(early ? unit : unit - early_units);
    return (early ? 0 : early_ctas) +
           static_cast<int>(small_quotient(local, static_cast<unsigned>(early ? per_cta : per_late)));
  }
  // CTAs that have units, the first ones.
  __device__ __forceinline__ int working() const { return units == 0 ? 0 : owner(units - 1) + 1; }
};

struct alignas(16) OneShared {
  std::uint64_t table_there;
  std::uint64_t gate_up_done;               // by this CTA
  std::uint64_t middle[kOnePieces];         // a piece's inputs of down are there
  std::uint64_t full[3][kMostOneUnits];     // weights of gate, up and down
  std::uint64_t sums_there[kMostOneUnits];  // of a unit of down; behind full, see walk_units()
  OneTable table;
  alignas(16) float sums[kMostOneUnits][kBand];
  float squares[kMostEarlyBlocks];
  int touched[32];
};

// Dynamic shared memory: units of gate, up and down, OneShared, the inputs of gate and up by block, those of down by
// piece.
struct OneMemory {
  unsigned char* stages;
  OneShared& shared;
  unsigned char *inputs, *middle;
  int matrix_bytes, stage_bytes;

  __device__ OneMemory(const StreamArgs& a, unsigned char* memory)
      : stages(memory),
        shared(*reinterpret_cast<OneShared*>(memory + 3 * a.ring_stages * a.stage_bytes)),
        inputs(reinterpret_cast<unsigned char*>(&shared + 1)),
        middle(inputs + a.layer.hidden / kBand * kOneBlockBytes),
        matrix_bytes(a.ring_stages * a.stage_bytes),
        stage_bytes(a.stage_bytes) {}
  __device__ __forceinline__ unsigned char* stage(int matrix, int unit) const {
    return stages + matrix * matrix_bytes + unit * stage_bytes;
  }
};

// As stamp(), by the thread that says so.
__device__ __forceinline__ void stamp_by(bool own, const StreamArgs& a, MoeStamp point) {
  if (a.call.probe.stamps != nullptr && own) a.call.probe.stamps[blockIdx.x * kMoeStamps + point] = cycle_counter();
}

__device__ __forceinline__ const TrellisRef& matrix_of(const ExpertRef& e, int matrix) {
  return matrix == 0 ? e.gate : matrix == 1 ? e.up : e.down;
}

// The run of this CTA, by a warp; says how many bytes come to each barrier.
__device__ inline void cut_one_run(const StreamArgs& a, OneShared& shared, int expert, float weight) {
  const int lane = threadIdx.x & 31, hidden_blocks = a.layer.hidden / kBand;
  OneTable& t = shared.table;
  const int bands = expert < 0 ? 0 : a.layer.experts[expert].intermediate / kBand;
  const int past = sum_of_lanes(bands);
  const int items = __shfl_sync(kAllLanes, past, 31);
  const unsigned units = static_cast<unsigned>(items * hidden_blocks);
  const unsigned per_cta = max(small_quotient(units + gridDim.x - 1, gridDim.x), 1u);
  const unsigned late_shift = gridDim.x >= 32 ? kOneLateShift : 0;
  const unsigned early_ctas = gridDim.x - (1u << late_shift);
  const unsigned early_units = min(units, per_cta * early_ctas), late_units = units - early_units;
  const unsigned per_late = (late_units + (1u << late_shift) - 1) >> late_shift;
  const bool late = blockIdx.x >= early_ctas;
  const unsigned begin = late ? early_units + min(per_late * (blockIdx.x - early_ctas), late_units)
                              : min(per_cta * blockIdx.x, early_units);
  const int count = static_cast<int>(late ? min(per_late, units - begin) : min(per_cta, early_units - begin));
  const int first_item = static_cast<int>(small_quotient(begin, static_cast<unsigned>(hidden_blocks)));
  const int first_block = static_cast<int>(begin) - first_item * hidden_blocks;
  const int first_count = min(count, hidden_blocks - first_block);
  // Lanes 0..5: the three matrices of both pieces.
  const int piece = lane < 3 ? 0 : 1, matrix = min(lane - 3 * piece, 2), item = first_item + piece;
  const unsigned before = __ballot_sync(kAllLanes, past <= first_item);
  const unsigned before_next = __ballot_sync(kAllLanes, past <= first_item + 1);
  const int slot = min(__popc(piece == 0 ? before : before_next), 31);
  const int own_expert = __shfl_sync(kAllLanes, expert, slot), own_bands = __shfl_sync(kAllLanes, bands, slot);
  const int band = item - (__shfl_sync(kAllLanes, past, slot) - own_bands);
  const int own_count = piece == 0 ? first_count : count - first_count;
  const float own_weight = __shfl_sync(kAllLanes, weight, slot);
  int bits = 0;
  if (lane < 3 * kOnePieces && own_count > 0) {
    const TrellisRef& m = matrix_of(a.layer.experts[own_expert], matrix);
    bits = m.bits;
    const int block = piece == 0 ? first_block : 0, out = matrix < 2 ? own_bands * kBand : a.layer.hidden;
    const int row = matrix < 2 ? block : band, column = matrix < 2 ? band : block;
    OnePiece& p = t.pieces[piece];
    p.row_bytes[matrix] = static_cast<unsigned>(2 * out * bits);
    p.words[matrix] = m.words + std::size_t{p.row_bytes[matrix]} * static_cast<unsigned>(row * kUnitRows) +
                      column * kRowBytesOfBit * bits;
    p.bits[matrix] = bits;
    p.expert = own_expert;
    p.band = band;
    p.item = item;
    p.weight = own_weight;
  }
  if (lane == 0) {
    t.begin = static_cast<int>(begin);
    t.count = count;
    t.per_cta = static_cast<int>(per_cta);
    t.per_late = static_cast<int>(per_late);
    t.early_units = static_cast<int>(early_units);
    t.early_ctas = static_cast<int>(early_ctas);
    t.items = items;
    t.units = static_cast<int>(units);
    t.pieces[0].count = first_count;
    t.pieces[1].count = count - first_count;
  }
#pragma unroll 1
  for (int m = 0; m < 3; ++m) {
    const int own = __shfl_sync(kAllLanes, bits, m + (lane < first_count ? 0 : 3));
    if (lane < count) barrier_expect(&shared.full[m][lane], kUnitRows * kRowBytesOfBit * own);
  }
}

// Reads what the experts are, by a warp, so that it is in the L1 cache when the table is made.
__device__ inline void touch_experts(const StreamArgs& a, OneShared& shared) {
  constexpr int kBatch = 8, kSector = 32;
  const int lane = threadIdx.x & 31;
  const int sectors = static_cast<int>(sizeof(ExpertRef)) / kSector * (a.layer.routed + a.layer.shared);
  const auto* const words = reinterpret_cast<const int*>(a.layer.experts);
  int all = 0;
#pragma unroll 1
  for (int begin = lane; begin < sectors; begin += 32 * kBatch) {
    int one[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) one[i] = begin + 32 * i < sectors ? words[(begin + 32 * i) * (kSector / 4)] : 0;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) all ^= one[i];
  }
  shared.touched[lane] = all;  // so that they are read
}

// The table of the run, by a warp, as make_early_table().
__device__ inline void make_one_table(const StreamArgs& a, OneShared& shared) {
  const int lane = threadIdx.x & 31;
  const int other = lane < a.slots_per_token ? a.layer.routed + lane - a.layer.top_k : -1;
  const EarlyRoute route = take_early_route(a, lane < a.layer.top_k, lane, other);
  if (lane == 0) shared.table.launch = route.launch;
  cut_one_run(a, shared, route.expert, route.weight);
  barrier_arrive(&shared.table_there);
}

// Copies a row of a unit of the run.
__device__ __forceinline__ void load_one_row(const OneMemory& m, int matrix, int unit, int row) {
  const OneTable& t = m.shared.table;
  const bool first = unit < t.pieces[0].count;
  const OnePiece& p = t.pieces[first ? 0 : 1];
  const unsigned local = static_cast<unsigned>(first ? unit : unit - t.pieces[0].count);
  const unsigned bytes = static_cast<unsigned>(kRowBytesOfBit * p.bits[matrix]), row_bytes = p.row_bytes[matrix];
  const unsigned char* from = p.words[matrix] + std::size_t{row_bytes} * static_cast<unsigned>(row);
  from += matrix < 2 ? std::size_t{row_bytes} * kUnitRows * local : std::size_t{bytes} * local;
  bulk_load(m.stage(matrix, unit) + row * bytes, from, static_cast<int>(bytes), &m.shared.full[matrix][unit]);
}

// The inputs of gate and up, by the computing warps, a block each in turn. Returns what sums are multiplied with: the
// factor of the norm.
__device__ __forceinline__ float stage_one_inputs(const StreamArgs& a, const OneMemory& m) {
  const MoeNorm& norm = a.call.norm;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, blocks = a.layer.hidden / kBand;
  const bool plain = norm.x == nullptr;
#pragma unroll 1
  for (int block = warp; block < blocks; block += kOneWarps) {
    const int k = block * kBand + 4 * lane;
    const uint2 suh = *reinterpret_cast<const uint2*>(a.layer.common_suh + k);
    float v[4] = {}, squares = 0;
    if (plain) {
      load_half4(a.call.x + k, v);
    } else if (k < norm.n) {
      const float4 x = __ldcg(reinterpret_cast<const float4*>(norm.x + k));
      const float4 weight = *reinterpret_cast<const float4*>(norm.weight + k);
      squares = fmaf(x.x, x.x, fmaf(x.y, x.y, fmaf(x.z, x.z, x.w * x.w)));
      to_array(make_float4(x.x * weight.x, x.y * weight.y, x.z * weight.z, x.w * weight.w), v);
    }
    scale_by(v, suh);
    hadamard128_and_sum(v, squares);
    store_one_unit(m.inputs + block * kOneBlockBytes, v);
    if (lane == 0) m.shared.squares[block] = squares;
  }
  consumer_sync<kOneComputeThreads>();
  if (plain) return 1.0f;
  float squares = 0;
#pragma unroll 1
  for (int block = lane; block < blocks; block += 32) squares += m.shared.squares[block];
  return rms_factor(warp_sum(squares), norm.n, norm.eps);
}

// Units that a warp multiplies with 16 of their outputs each.
struct OneWalk {
  const unsigned char *stage, *digits;
  std::uint64_t* full;
  int count;
  int unit_step;   // from one unit to the next
  int digit_step;  // bytes
  bool down;       // sums of each unit go to unit_sums, else those over all units to `to`
  uint4* to;
  float* unit_sums;  // [unit][kBand]
};

// Two neighbouring outputs a lane, from its columns lane / 4 and lane / 4 + 8. to: of the band.
__device__ __forceinline__ void store_one_sums(uint4* to, const float (&sums)[2], float factor, unsigned launch) {
  const int lane = threadIdx.x & 31, column = threadIdx.x / 32 % kTeamWarps, row = lane >> 2;
  const bool odd = (row & 1) != 0;
  const float other = __shfl_xor_sync(kAllLanes, odd ? sums[0] : sums[1], 4);
  const int pair = column * 8 + row / 2 + (odd ? 4 : 0);
  if ((lane & 3) != 0) return;
  store_numbered(to + (pair & 1) * 32 + pair / 2, factor * (odd ? other : sums[0]), factor * (odd ? sums[1] : other),
                 launch);
}

template <int kBits>
__device__ __forceinline__ void walk_units(const LanePlace& place, OneWalk w, int stage_bytes, float factor,
                                           unsigned launch) {
  const LaneStream<kBits> stream(place);
  const int stage_step = w.unit_step * stage_bytes;
  w.digits += one_digits_place();
  float sums[2] = {};
#pragma unroll 1
  for (int left = w.count; left > 0; --left) {
    int acc[2][4] = {};
    barrier_wait(w.full, 0);
    multiply_one_column<kBandTiles>(stream, w.stage, kBandTiles * stream.kTileBytes, w.digits, acc);
    add_one_block(w.digits - one_digits_place(), acc, sums);
    w.stage += stage_step;
    w.digits += w.digit_step;
    if (w.down) {
      if ((threadIdx.x & 3) == 0) {
        w.unit_sums[0] = sums[0];
        w.unit_sums[8] = sums[1];
      }
      barrier_arrive(w.full + kMostOneUnits);  // sums_there
      sums[0] = sums[1] = 0;
      w.unit_sums += kOneTeams * kBand;
    }
    w.full += w.unit_step;
  }
  if (!w.down) store_one_sums(w.to, sums, factor, launch);
}

// A warp's share of the run: gate or up of all units, then down of every second one.
__device__ __forceinline__ void compute_one_run(const StreamArgs& a, const OneMemory& m, float factor) {
  const OneTable& t = m.shared.table;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, team = warp / kTeamWarps, column = warp % kTeamWarps;
  const int hidden_blocks = a.layer.hidden / kBand;
  const int pieces = t.pieces[1].count > 0 ? 2 : 1;
#pragma unroll 1
  for (int turn = 0; turn < 2 * pieces; ++turn) {
    const bool down = turn >= pieces;
    const int piece = down ? turn - pieces : turn;
    const OnePiece& p = t.pieces[piece];
    const int matrix = down ? 2 : team, first = piece == 0 ? 0 : t.pieces[0].count;
    OneWalk w;
    w.down = down;
    w.to = linked_gate_up + ((p.item + static_cast<int>(blockIdx.x)) * 2 + team) * kLinkedUnits;
    int begin = first;
    if (!down) {
      w.count = p.count;
      w.unit_step = 1;
      w.digits = m.inputs + (t.begin + first - p.item * hidden_blocks) * kOneBlockBytes;
      w.digit_step = kOneBlockBytes;
    } else {
      if (piece == 0) {
        stamp(a, kStampGateUp);
        barrier_arrive(&m.shared.gate_up_done);
      }
      begin += (first ^ team) & 1;
      w.count = (first + p.count - begin + 1) / 2;
      w.unit_step = kOneTeams;
      w.digits = m.middle + piece * kOneBlockBytes;
      w.digit_step = 0;
    }
    w.unit_sums = &m.shared.sums[begin][column * 16 + (lane >> 2)];
    w.stage = m.stage(matrix, begin);
    w.full = &m.shared.full[matrix][begin];
    LanePlace place(p.bits[matrix], lane);
#pragma unroll
    for (int& offset : place.offset) offset += column * 32 * p.bits[matrix];
    if (down) {
      barrier_wait(&m.shared.middle[piece], 0);
      if (piece == 0) stamp(a, kStampDownInput);
    }
    switch (p.bits[matrix]) {
#define FAIRWAY_CASE(bits)                                                     \
  case bits:                                                                   \
    walk_units<bits>(place, w, a.stage_bytes, down ? 1.0f : factor, t.launch); \
    break;
      FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
    }
  }
}

// The inputs of down of one piece, by the warp that serves it.
__device__ inline void make_one_middle(const StreamArgs& a, const OneMemory& m, int piece) {
  const OneTable& t = m.shared.table;
  const OnePiece& p = t.pieces[piece];
  if (p.count == 0) return;
  const int lane = threadIdx.x & 31, hidden_blocks = a.layer.hidden / kBand, k = p.band * kBand + 4 * lane;
  const int first = t.owner(p.item * hidden_blocks), last = t.owner((p.item + 1) * hidden_blocks - 1);
  const ExpertRef& e = a.layer.experts[p.expert];
  const uint2 gate_svh = *reinterpret_cast<const uint2*>(e.gate.svh + k);
  const uint2 up_svh = *reinterpret_cast<const uint2*>(e.up.svh + k);
  const uint2 suh = *reinterpret_cast<const uint2*>(e.down.suh + k);
  barrier_wait(&m.shared.gate_up_done, 0);
  float4 sums[2] = {};
  add_linked<2>(linked_gate_up + lane, kLinkedUnits, 2 * kLinkedUnits, p.item + first, p.item + last, t.launch, sums);
  stamp_by(piece == 0 && lane == 0, a, kStampWaited);
  float gate[4], v[4];
  to_array(sums[0], gate);
  to_array(sums[1], v);
  hadamard128_both(gate, v);
  scale_by(gate, gate_svh);
  scale_by(v, up_svh);
#pragma unroll
  for (int j = 0; j < 4; ++j) v[j] *= __fdividef(gate[j], 1.0f + __expf(-gate[j]));
  scale_by(v, suh);
  hadamard128(v);
  store_one_unit(m.middle + piece * kOneBlockBytes, v);
  __syncwarp();
  barrier_arrive(&m.shared.middle[piece]);
}

// The outputs of down of every unit, [unit][kBand / 4], until the layer's outputs have been added up. A float is zero
// when it is not there: one that is zero is written as negative zero, and who has read it leaves a zero for the next
// launch. So a float needs no number, as linked sums do, and one reader alone reads it.
static __device__ float4 one_down[kMostOneLayerUnits * (kBand / 4)];

__device__ __forceinline__ float not_zero(float v) {
  return v == 0 ? -0.0f : v;
}
__device__ __forceinline__ bool are_there(float4 v) {
  return __float_as_uint(v.x) != 0 && __float_as_uint(v.y) != 0 && __float_as_uint(v.z) != 0 &&
         __float_as_uint(v.w) != 0;
}

// Sixteen outputs of a band of y, by a warp. It reads them of all bands of all slots at the same time: four lanes a
// band, eight bands in one instruction. It adds each eighth band, and then the eight sums.
__device__ __forceinline__ void sum_one_part(const StreamArgs& a, const OneTable& t, int part) {
  constexpr int kBatch = 8, kLanes = 4, kGroups = 32 / kLanes;
  const int lane = threadIdx.x & 31, blocks = a.layer.hidden / kBand, group = lane / kLanes;
  const int block = part / kOneSumParts, column = part % kOneSumParts * (kBand / kOneSumParts) + 4 * (lane % kLanes);
  float4* const from = one_down + block * (kBand / 4) + column / 4;
  const float4 none = make_float4(-0.0f, -0.0f, -0.0f, -0.0f);
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 1
  for (int base = group; base - group < t.items; base += kBatch * kGroups) {
    float4 v[kBatch];
#pragma unroll
    for (int q = 0; q < kBatch; ++q) v[q] = base + kGroups * q < t.items ? make_float4(0, 0, 0, 0) : none;
    bool all;
    int polls = 0;
    do {
#pragma unroll
      for (int q = 0; q < kBatch; ++q) {
        if (!are_there(v[q])) v[q] = load_shared_floats(from + (base + kGroups * q) * blocks * (kBand / 4));
      }
      all = true;
#pragma unroll
      for (int q = 0; q < kBatch; ++q) all &= are_there(v[q]);
      poll_again(++polls);
    } while (!__all_sync(kAllLanes, all));
#pragma unroll
    for (int q = 0; q < kBatch; ++q) sum = add4(sum, v[q]);
  }
#pragma unroll
  for (int distance = kLanes; distance < 32; distance *= 2) {
    sum.x += __shfl_xor_sync(kAllLanes, sum.x, distance);
    sum.y += __shfl_xor_sync(kAllLanes, sum.y, distance);
    sum.z += __shfl_xor_sync(kAllLanes, sum.z, distance);
    sum.w += __shfl_xor_sync(kAllLanes, sum.w, distance);
  }
  if (group == 0) *reinterpret_cast<float4*>(a.call.y + block * kBand + column) = sum;
#pragma unroll 1
  for (int item = group; item < t.items; item += kGroups) {
    store_shared_floats(from + item * blocks * (kBand / 4), make_float4(0, 0, 0, 0));
  }
}

// The first CTA whose computing warps add up: those without units and the late ones, which have few, if they are
// enough, so that the others make room for the next kernel. Else the grid's size: the serving warps of all CTAs do it.
__device__ __forceinline__ int first_summing(const StreamArgs& a, const OneTable& t) {
  const int ctas = static_cast<int>(gridDim.x), first = min(t.working(), t.early_ctas);
  return (ctas - first) * kOneWarps >= a.layer.hidden / kBand * kOneSumParts ? first : ctas;
}

// The outputs of a team's units of down, transformed, scaled and weighted, by the warp that serves it.
__device__ __forceinline__ void finish_one_units(const StreamArgs& a, const OneMemory& m, int server) {
  const OneTable& t = m.shared.table;
  const int lane = threadIdx.x & 31;
#pragma unroll 1
  for (int unit = server; unit < t.count; unit += kOneTeams) {
    const OnePiece& p = t.pieces[unit < t.pieces[0].count ? 0 : 1];
    const int block = t.begin + unit - p.item * (a.layer.hidden / kBand);
    const uint2 svh = *reinterpret_cast<const uint2*>(a.layer.experts[p.expert].down.svh + block * kBand + 4 * lane);
    const float weight = p.weight;
    barrier_wait(&m.shared.sums_there[unit], 0);
    float v[4];
    to_array(*reinterpret_cast<const float4*>(&m.shared.sums[unit][4 * lane]), v);
    hadamard128(v);
    scale_by(v, svh);
    store_shared_floats(one_down + (t.begin + unit) * (kBand / 4) + lane,
                        make_float4(not_zero(v[0] * weight), not_zero(v[1] * weight), not_zero(v[2] * weight),
                                    not_zero(v[3] * weight)));
  }
}

// The warps that serve the computing ones.
__device__ __forceinline__ void serve_one_run(const StreamArgs& a, const OneMemory& m, int server) {
  OneShared& shared = m.shared;
  const bool stamps = server == 0 && (threadIdx.x & 31) == 0;
  if (server == 0) {
    make_one_table(a, shared);
  } else {
    touch_experts(a, shared);
  }
  barrier_wait(&shared.table_there, 0);
  const OneTable& t = shared.table;
#pragma unroll 1
  for (int i = 2 * static_cast<int>(threadIdx.x & 31) + server; i < kUnitRows * t.count; i += 2 * 32) {
    load_one_row(m, 2, i / kUnitRows, i % kUnitRows);
  }
  __syncwarp();
  if (server == 0) {
    if (a.call.announced.units != nullptr) {
      wait_for_previous_kernel();  // whose data is here: but it has to be over before this one is
      let_next_kernel_start();
    }
    if (stamps) leave_launch(t.launch, a.call.announced.turn);
  }
  make_one_middle(a, m, server);
  finish_one_units(a, m, server);
  if (t.count > 0) stamp_by(stamps, a, kStampDown);
  if (first_summing(a, t) == static_cast<int>(gridDim.x)) {
#pragma unroll 1
    for (int part = static_cast<int>(blockIdx.x + server * gridDim.x); part < a.layer.hidden / kBand * kOneSumParts;
         part += static_cast<int>(kOnePieces * gridDim.x)) {
      sum_one_part(a, t, part);
    }
  }
  if (t.count > 0) stamp_by(stamps, a, kStampSums);
  if (a.call.probe.stamps != nullptr && stamps) {
    a.call.probe.stamps[blockIdx.x * kMoeStamps + kStampLeft] = device_nanoseconds();
  }
}

__device__ __forceinline__ void run_stream_one(const StreamArgs& a) {
  const OneMemory m(a, dynamic_shared<unsigned char>());
  OneShared& shared = m.shared;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  stamp_time(a, kStampEntered);
  if (warp == kOneWarps) {
    if (lane < kMostOneUnits) {
#pragma unroll
      for (int matrix = 0; matrix < 3; ++matrix) barrier_init(&shared.full[matrix][lane], 1);
      barrier_init(&shared.sums_there[lane], 32 * kTeamWarps);
    }
    if (lane < kOnePieces) barrier_init(&shared.middle[lane], 32);
    if (lane == kOnePieces) barrier_init(&shared.table_there, 32);
    if (lane == kOnePieces + 1) barrier_init(&shared.gate_up_done, kOneComputeThreads);
    barrier_init_fence();
  }
  __syncthreads();
  if (warp >= kOneWarps) return serve_one_run(a, m, warp - kOneWarps);
  const bool plain = a.call.norm.x == nullptr;
  if (plain) {
    wait_for_previous_kernel();
    stamp_time(a, kStampReleased);
    stamp(a, kStampStart);
  }
  const float factor = stage_one_inputs(a, m);
  stamp(a, kStampInput);
  barrier_wait(&shared.table_there, 0);
  if (a.call.announced.units == nullptr) wait_for_previous_kernel();  // which the table has waited for
  if (!plain) {
    stamp_time(a, kStampReleased);
    stamp(a, kStampStart);
  }
  stamp(a, kStampTable);
  const OneTable& t = shared.table;
  if (t.count > 0) {
    if (lane < t.count) load_one_row(m, warp / kTeamWarps, lane, warp % kTeamWarps);
    __syncwarp();
    compute_one_run(a, m, factor);
  }
  const int first = first_summing(a, t), ctas = static_cast<int>(gridDim.x) - first;
  if (static_cast<int>(blockIdx.x) < first) return;
#pragma unroll 1
  for (int part = static_cast<int>(blockIdx.x) - first + warp * ctas; part < a.layer.hidden / kBand * kOneSumParts;
       part += kOneWarps * ctas) {
    sum_one_part(a, t, part);
  }
  stamp_time(a, kStampLeft);
}

__global__ void __launch_bounds__(kOneThreads, 1) stream_one_kernel(const __grid_constant__ StreamArgs a) {
  if constexpr (kCodeHasClusters) {
    run_stream_one(a);
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
