// The half-precision paths' share of the band kernel: any codebook, weights decoded into the A operand of the half
// tensor instruction, tokens streamed beside them.
#pragma once

#include "kernels/moe_swiglu/cuda/int_path.cuh"

namespace fairway::kernels::cuda {

constexpr int kHalfTiles = 2;                   // tiles side by side that a warp computes
constexpr int kTokenRowBytes = 2 * kBand + 64;  // a token's 128 inputs in a stage; the pad separates the banks

struct SumCodebook {
  u32 multiplier, addend;
};

template <int kBits, bool kMul1>
__device__ __forceinline__ void decode_half(const LaneStream<kBits>& stream, const unsigned char* tile,
                                            SumCodebook codebook, u32 (&fragment)[4]) {
  u32 a[3], s[8];
  stream.load(tile, a);
  windows<kBits>(a, s);
  constexpr int kPair[4] = {0, 4, 2, 6};  // registers of A: column g rows 2q, g + 8 rows 2q, g rows 2q + 8, ...
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const u32 s0 = s[kPair[i]], s1 = s[kPair[i] + 1];
    fragment[i] = kMul1 ? mul1_pair(s0, s1) : sum_pair(s0, s1, codebook.multiplier, codebook.addend);
  }
}

template <int kBits, bool kMul1, int kGroups>
__device__ __forceinline__ void walk_half(RingCursor& ring, int blocks, SumCodebook codebook,
                                          float (&acc)[kHalfTiles][kGroups][4]) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int column_part = warp & 3, row_half = warp >> 2;
  const LaneStream<kBits> stream(lane);
  for (int block = 0; block < blocks; ++block) {
    ring.wait_full();
    const unsigned char* in = ring.data() + (lane >> 2) * kTokenRowBytes + row_half * 128 + (lane & 3) * 16;
    const unsigned char* tiles = ring.data() + 8 * kGroups * kTokenRowBytes +
                                 (row_half * 4 * kBandTiles + column_part * kHalfTiles) * (32 * kBits);
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {  // of tile rows
      uint4 b[kGroups];
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        b[g] = *reinterpret_cast<const uint4*>(in + 8 * g * kTokenRowBytes + 64 * pair);
      }
#pragma unroll
      for (int row = 0; row < 2; ++row) {
#pragma unroll
        for (int tile = 0; tile < kHalfTiles; ++tile) {
          u32 w[4];
          decode_half<kBits, kMul1>(stream, tiles + ((2 * pair + row) * kBandTiles + tile) * (32 * kBits), codebook, w);
#pragma unroll
          for (int g = 0; g < kGroups; ++g) {
            mma_half(acc[tile][g], w[0], w[1], w[2], w[3], row == 0 ? b[g].x : b[g].z, row == 0 ? b[g].y : b[g].w);
          }
        }
      }
    }
    ring.release();
    ring.advance();
  }
}

template <int kGroupCount>
struct HalfPath {
  static constexpr int kGroups = kGroupCount;
  static constexpr int kTokens = 8 * kGroups;
  static constexpr int kReleases = kComputeWarps;
  static constexpr int kMinCtas = kGroups <= 4 ? 2 : 1;
  static constexpr bool kStreamsTokens = true;

  struct Shared {};

  template <bool kMul1>
  static __device__ __forceinline__ void walk(RingCursor& ring, const Part& part, SumCodebook codebook,
                                              float (&acc)[kHalfTiles][kGroups][4]) {
    switch (part.matrix->bits) {
#define FAIRWAY_CASE(bits)                                            \
  case bits:                                                          \
    walk_half<bits, kMul1, kGroups>(ring, part.count, codebook, acc); \
    break;
      FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
    }
  }

  static __device__ void compute(const BandArgs&, const Item&, const Part& part, bool, RingCursor& ring, unsigned char*,
                                 Shared&, float* inner) {
    float acc[kHalfTiles][kGroups][4] = {};
    const auto codebook = static_cast<codec::Codebook>(part.matrix->codebook);
    if (codebook == codec::Codebook::kMul1) {
      walk<true>(ring, part, {}, acc);
    } else {
      const bool adds_constant = codebook == codec::Codebook::k3inst;
      walk<false>(
          ring, part,
          {adds_constant ? codec::k3instMultiplier : codec::kMcgMultiplier, adds_constant ? codec::k3instAddend : 0},
          acc);
    }
    const bool adds = threadIdx.x < kComputeThreads / 2;  // the warps of the first tile rows
    if (!adds) exchange<false>(acc, inner);
    consumer_sync<kComputeThreads>();
    if (adds) exchange<true>(acc, inner);
    consumer_sync<kComputeThreads>();
  }

  template <bool kAdd>
  static __device__ __forceinline__ void exchange(const float (&acc)[kHalfTiles][kGroups][4], float* inner) {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    float* at = inner + 2 * (lane & 3) * kInnerStride + (warp & 3) * kHalfTiles * 16 + (lane >> 2);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int tile = 0; tile < kHalfTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float* sum = at + (8 * g + (i & 1)) * kInnerStride + 16 * tile + (i >> 1) * 8;
          *sum = kAdd ? *sum + acc[tile][g][i] : acc[tile][g][i];
        }
      }
    }
  }
};

}  // namespace fairway::kernels::cuda
