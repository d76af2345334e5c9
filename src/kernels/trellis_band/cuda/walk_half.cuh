// The loop of the half-precision paths: any codebook, weights decoded into the A operand of the half tensor
// instruction.
#pragma once

#include "kernels/common/cuda/hidden.cuh"
#include "kernels/trellis_band/cuda/band.cuh"
#include "kernels/trellis_band/cuda/ring.cuh"
#include "kernels/trellis_band/cuda/trellis_decode.cuh"

namespace fairway::kernels::cuda {

constexpr int kHalfTiles = 2;                   // tiles side by side that a warp computes
constexpr int kTokenRowBytes = 2 * kBand + 64;  // a token's 128 inputs in a stage; the pad separates the banks

// Where the loop finds the tokens' halves, in fragment order: beside the weights, in the first bytes of a stage;
struct StreamedTokens {
  static constexpr bool kInStage = true;
  __device__ static constexpr int stride() { return kTokenRowBytes; }
  __device__ static const unsigned char* block(const RingCursor& ring, int) { return ring.data(); }
};
// or in shared memory of their own, a token's blocks one after the other.
struct ResidentTokens {
  static constexpr bool kInStage = false;
  unsigned char* data;
  int row_bytes;  // 64 more than a multiple of 128, for the same reason

  __device__ int stride() const { return row_bytes; }
  __device__ const unsigned char* block(const RingCursor&, int i) const { return data + i * 2 * kBand; }
};

// What 3inst and mcg make a value from.
struct SumCodebook {
  u32 multiplier, addend;

  static __device__ __forceinline__ SumCodebook of(codec::Codebook codebook) {
    const bool adds = codebook == codec::Codebook::k3inst;
    return {adds ? codec::k3instMultiplier : codec::kMcgMultiplier, adds ? codec::k3instAddend : 0};
  }
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

// Two tile rows of a warp's tiles times all tokens: the tokens' inputs wait in registers for one tile after the other.
template <int kBits, bool kMul1, int kGroups>
__device__ __forceinline__ void multiply_held_tokens(const LaneStream<kBits>& stream, const unsigned char* tiles,
                                                     const unsigned char* in, int stride, SumCodebook codebook,
                                                     float (&acc)[kHalfTiles][kGroups][4]) {
  uint4 b[kGroups];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) b[g] = *reinterpret_cast<const uint4*>(in + 8 * g * stride);
#pragma unroll
  for (int row = 0; row < 2; ++row) {
#pragma unroll
    for (int tile = 0; tile < kHalfTiles; ++tile) {
      u32 w[4];
      decode_half<kBits, kMul1>(stream, tiles + (row * kBandTiles + tile) * (32 * kBits), codebook, w);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        mma_half(acc[tile][g], w[0], w[1], w[2], w[3], row == 0 ? b[g].x : b[g].z, row == 0 ? b[g].y : b[g].w);
      }
    }
  }
}

template <int kBits, bool kMul1, int kGroups, class Tokens>
__device__ __forceinline__ void walk_half(RingCursor& ring, int blocks, const Tokens& tokens, SumCodebook codebook,
                                          float (&acc)[kHalfTiles][kGroups][4]) {
  const int thread = hidden_thread(), lane = thread & 31, warp = thread >> 5;
  const int column_part = warp & 3, row_half = warp >> 2;
  const LaneStream<kBits> stream(lane);
  for (int block = 0; block < blocks; ++block) {
    ring.wait_full();
    const unsigned char* in =
        tokens.block(ring, block) + (lane >> 2) * tokens.stride() + row_half * 128 + (lane & 3) * 16;
    const unsigned char* tiles = ring.data() + (Tokens::kInStage ? 8 * kGroups * kTokenRowBytes : 0) +
                                 (row_half * 4 * kBandTiles + column_part * kHalfTiles) * (32 * kBits);
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {  // of tile rows
      const unsigned char* pair_tiles = tiles + 2 * pair * kBandTiles * (32 * kBits);
      multiply_held_tokens<kBits, kMul1>(stream, pair_tiles, in + 64 * pair, tokens.stride(), codebook, acc);
    }
    ring.release();
    ring.advance();
  }
}

}  // namespace fairway::kernels::cuda
