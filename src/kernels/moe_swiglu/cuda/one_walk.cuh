// What the computing warps of the kernel for one token do with the units of a run.
#pragma once

#include "kernels/moe_swiglu/cuda/one_run.cuh"

namespace fairway::kernels::cuda {

// Units that a warp multiplies with 16 * kColumns of their outputs each.
struct OneWalk {
  const unsigned char *stage, *digits;
  std::uint64_t* digits_there;  // waited for once, when all else is ready
  std::uint64_t* full;
  int step, count;             // from one to the next, how many
  int stage_step, digit_step;  // bytes
  float* sums;                 // [unit][kBand] of the CTA, where a lane's go; null: those over all units are left
  int reused, to_used;         // units whose memory down needs; what tells that they are used, behind their `full`
};

// A warp's four lanes that have the same sums store one each, of a single column two of them.
template <int kColumns>
__device__ __forceinline__ int place_of_own_sum() {
  const int lane = threadIdx.x & 31;
  return (lane >> 1 & (kColumns - 1)) * 16 + (lane & 1) * 8 + (lane >> 2);
}
template <int kColumns>
__device__ __forceinline__ void store_own_sum(float* at, const float (&sums)[kColumns][2], float rest) {
  const int lane = threadIdx.x & 31;
  constexpr int kLast = kColumns - 1;
  const float first = lane & 1 ? sums[0][1] : sums[0][0], last = lane & 1 ? sums[kLast][1] : sums[kLast][0];
  if (kColumns == 2 || (lane & 2) == 0) *at = (lane & 2 ? last : first) + rest;
}

// The sums of a warp's columns, two neighbouring outputs in a unit. to: of the band.
template <int kColumns>
__device__ __forceinline__ void store_one_sums(uint4* to, int column, const float (&sums)[kColumns][2], float factor,
                                               unsigned launch) {
  const int lane = threadIdx.x & 31, row = lane >> 2;
  const bool odd = (row & 1) != 0, second = kColumns == 2 && (lane & 1) != 0;
  constexpr int kLast = kColumns - 1;
  const float low = second ? sums[kLast][0] : sums[0][0], high = second ? sums[kLast][1] : sums[0][1];
  const float other = __shfl_xor_sync(kAllLanes, odd ? low : high, 4);
  const int at = (column + (second ? 1 : 0)) * 8 + row / 2 + (odd ? 4 : 0);
  if ((lane & (kColumns == 2 ? 2 : 3)) != 0) return;
  store_numbered(to + (at & 1) * 32 + at / 2, factor * (odd ? other : low), factor * (odd ? high : other), launch);
}

template <int kBits, int kColumns>
__device__ __forceinline__ void walk_units(const LanePlace& place, OneWalk w, float (&sums)[kColumns][2]) {
  const LaneStream<kBits> stream(place);
  w.digits += one_digits_place();
  float rest = 0;
  barrier_wait(w.digits_there, 0);  // here: what comes before takes time
#pragma unroll 1
  for (; w.count > 0; --w.count) {
    int acc[2][4] = {};
    barrier_wait(w.full, 0);
    multiply_columns<kBandTiles, kColumns, kBits>(stream, w.stage, kBandTiles * stream.kTileBytes, w.digits, acc);
    rest += add_one_block(w.digits - one_digits_place(), acc, sums);
    if (w.sums != nullptr) {
      store_own_sum(w.sums, sums, rest);
      barrier_arrive(w.full + kMostOneUnits);  // sums_there
#pragma unroll
      for (float(&column)[2] : sums) column[0] = column[1] = 0;
      rest = 0;
      w.sums += OneGroup<kColumns>::kDownStep * kBand;
    } else if (w.reused > 0) {
      barrier_arrive(w.full + w.to_used);
      w.reused -= w.step;
    }
    w.stage += w.stage_step;
    w.digits += w.digit_step;
    w.full += w.step;
  }
#pragma unroll
  for (float(&column)[2] : sums) column[0] += rest, column[1] += rest;
}

// A warp's share of the run: gate or up of its units, then down of others.
template <int kColumns>
__device__ __forceinline__ void compute_one_run(const StreamArgs& a, const OneMemory& m, float factor) {
  using Group = OneGroup<kColumns>;
  OneShared& shared = m.shared;
  const OneTable& t = shared.table;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int group = warp / Group::kWarps, column = kColumns * (warp % Group::kWarps), side = warp / kTeamWarps;
#pragma unroll 1
  for (int turn = 0; turn < 2 * kOnePieces; ++turn) {
    if (turn == kOnePieces) {
      stamp(a, kStampGateUp);
      barrier_arrive(&shared.gate_up_done);
    }
    const bool down = turn >= kOnePieces;
    const int piece = turn % kOnePieces;
    const OnePiece& p = t.pieces[piece];
    if (p.count == 0) continue;
    const int matrix = down ? 2 : side;
    OneWalk w;
    w.step = down ? Group::kDownStep : Group::kGateUpStep;
    const int ahead = (group - p.first) & (w.step - 1), unit = p.first + ahead;
    w.count = (p.count - ahead + w.step - 1) >> (down ? Group::kDownShift : Group::kGateUpShift);
    w.stage = m.stage(matrix, unit);
    w.stage_step = w.step * shared.at.step[matrix];
    w.full = &shared.full[matrix][unit];
    w.digits = down ? m.middle + piece * kOneBlockBytes : m.inputs + (p.block + ahead) * kOneBlockBytes;
    w.digit_step = down ? 0 : w.step * kOneBlockBytes;
    w.sums = down ? &shared.sums[unit][column * 16 + place_of_own_sum<kColumns>()] : nullptr;
    w.reused = shared.at.reused - unit;
    w.to_used = static_cast<int>(&shared.used[0] - &shared.full[matrix][0]);
    LanePlace place(p.bits[matrix], lane);
#pragma unroll
    for (int& offset : place.offset) offset += column * 32 * p.bits[matrix];
    w.digits_there = down ? &shared.middle[piece] : &shared.table_there;
    float sums[kColumns][2] = {};
    switch (p.bits[matrix]) {
#define FAIRWAY_CASE(bits)                      \
  case bits:                                    \
    walk_units<bits, kColumns>(place, w, sums); \
    break;
      FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
    }
    if (down) continue;
    const int part = Group::kParts * (p.item + static_cast<int>(blockIdx.x)) + (group & (Group::kParts - 1));
    store_one_sums(linked_gate_up + (2 * part + side) * kLinkedUnits, column, sums, factor, t.launch);
  }
}

}  // namespace fairway::kernels::cuda
