// The loop of the wide paths: many tokens, decoded weights as the register operand of the tensor instructions of four
// warps, tokens as the operand in shared memory. A weight is decoded once for up to 128 tokens.
//
// Four warps ("team") compute 64 outputs of a band: warp w of the team the tile column 4 * (team % 2) + w. A fragment
// of 64 x 16 weights is, by warps, one tile each, in the registers that decode_half() fills for the 16-wide
// instruction.
//
// Instructions to decode a tile at 3 bits, mul1: 21 for the arithmetic pipe, 20 for the multiplying one; either takes
// one every other cycle. So four teams on an SM decode 16 inputs in about 170 cycles; its tensor cores need 2 cycles
// for each token for what they do with them.
#pragma once

#include "codec/bits.inc"
#include "kernels/common/cuda/hidden.cuh"
#include "kernels/trellis_band/cuda/band.cuh"
#include "kernels/trellis_band/cuda/ring.cuh"
#include "kernels/trellis_band/cuda/trellis_decode.cuh"
#include "kernels/trellis_band/cuda/trellis_ref.cuh"
#include "kernels/trellis_band/cuda/walk_half.cuh"

namespace fairway::kernels::cuda {

constexpr int kWideTokens = 128;  // of a segment, at most
constexpr int kWidePanel = 64;    // inputs of a stage: a row of 128 bytes for each token
constexpr int kWideRowBytes = 2 * kWidePanel;
constexpr int kWideTokenBytes = kWideTokens * kWideRowBytes;  // of a stage, for one set of inputs
constexpr int kWideTileRows = kWidePanel / 16;

// mul1 values of two states. Beside mul1_pair() the halves are put together by the arithmetic pipe.
__device__ __forceinline__ u32 mul1_pair_permuted(u32 s0, u32 s1) {
  const u32 n0 = __dp4a(s0 * codec::kMul1Multiplier, 0x01010101u, 0x6400u);
  const u32 n1 = __dp4a(s1 * codec::kMul1Multiplier, 0x01010101u, 0x6400u);
  return as_bits(__hfma2(as_half2(__byte_perm(n0, n1, 0x5410)), as_half2(0x1EEE1EEEu), as_half2(0xC931C931u)));
}

// decode_half() with fewer of its shifts on the multiplier, which here has more to do.
template <int kBits, bool kMul1>
__device__ __forceinline__ void decode_wide(const LaneStream<kBits>& stream, const unsigned char* tile,
                                            SumCodebook codebook, u32 (&fragment)[4]) {
  u32 a[3];
  stream.load(tile, a);
  const u32 s[8] = {window<7 * kBits, false>(a), window<6 * kBits, false>(a), window<5 * kBits, true>(a),
                    window<4 * kBits, false>(a), window<3 * kBits, true>(a),  window<2 * kBits, false>(a),
                    window<1 * kBits, false>(a), window<0, false>(a)};
  constexpr int kPair[4] = {0, 4, 2, 6};  // registers of A: column g rows 2q, g + 8 rows 2q, g rows 2q + 8, ...
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const u32 s0 = s[kPair[i]], s1 = s[kPair[i] + 1];
    fragment[i] = kMul1 ? mul1_pair_permuted(s0, s1) : sum_pair(s0, s1, codebook.multiplier, codebook.addend);
  }
}

// Where a team finds its operands in a stage, in bytes.
struct WideOperands {
  int tiles;   // tile row 0 of its warp's tile column; the next row is kBandTiles tiles further
  int tokens;  // rows as in swizzled_rows()
};

using WideFragments = u32[kWideTileRows][4];  // the tiles of a stage, one below the other

template <int kColumns>
__device__ __forceinline__ void start_wgmma(float (&acc)[kWgmmaSums], const WideFragments& w, unsigned rows) {
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < kWideTileRows; ++i) {
    wgmma_half<kColumns>(acc, w[i], rows + static_cast<unsigned>(i) * kWgmmaNextColumns);
  }
  wgmma_commit();
}
// A group of instructions for as many columns as there are. With 32 of them nothing would be faster: the decode takes
// longer than the product with 64.
__device__ __forceinline__ void start_wgmma(float (&acc)[kWgmmaSums], const WideFragments& w, unsigned rows,
                                            int columns) {
  if (columns <= 64) {
    start_wgmma<64>(acc, w, rows);
  } else if (columns <= 96) {
    start_wgmma<96>(acc, w, rows);
  } else {
    start_wgmma<128>(acc, w, rows);
  }
}

// What a team knows of its matrix.
struct WideMatrix {
  int bits;
  bool mul1;
  SumCodebook codebook;  // if not

  __device__ WideMatrix(int width, int codebook_number)
      : bits(width),
        mul1(codebook_number == static_cast<int>(codec::Codebook::kMul1)),
        codebook(SumCodebook::of(static_cast<codec::Codebook>(codebook_number))) {}
};

template <int kBits, bool kMul1>
__device__ __forceinline__ void decode_tiles(const WideMatrix& m, const LanePlace& place, const unsigned char* tile,
                                             WideFragments& w) {
  const LaneStream<kBits> stream(place);
#pragma unroll
  for (int i = 0; i < kWideTileRows; ++i) {
    decode_wide<kBits, kMul1>(stream, tile + i * kBandTiles * stream.kTileBytes, m.codebook, w[i]);
  }
}

// The common widths are found with few branches.
template <bool kMul1>
__device__ __forceinline__ void decode_any_width(const WideMatrix& m, const LanePlace& place, const unsigned char* tile,
                                                 WideFragments& w) {
  if (m.bits == 3) {
    decode_tiles<3, kMul1>(m, place, tile, w);
  } else if (m.bits == 4) {
    decode_tiles<4, kMul1>(m, place, tile, w);
  } else if (m.bits == 2) {
    decode_tiles<2, kMul1>(m, place, tile, w);
  } else if (m.bits == 6) {
    decode_tiles<6, kMul1>(m, place, tile, w);
  } else if (m.bits == 5) {
    decode_tiles<5, kMul1>(m, place, tile, w);
  } else if (m.bits == 8) {
    decode_tiles<8, kMul1>(m, place, tile, w);
  } else if (m.bits == 7) {
    decode_tiles<7, kMul1>(m, place, tile, w);
  } else {
    decode_tiles<1, kMul1>(m, place, tile, w);
  }
}

// acc = the sums over the next `stages` >= 1 stages of the ring, of `columns` rows at least. While the tensor cores
// work on a team's stage, the other teams decode theirs. One loop for all widths and codebooks, with the choice inside
// it: the sums of several loops do not fit into the registers in the way that the compiler assigns them, and a loop for
// one width alone was not measurably faster. With too few registers ptxas makes the tensor instructions wait for each
// other, and says so (C7512 with -Xptxas -v): to be looked for after every change here or in what surrounds this.
template <bool kAllMul1>
__device__ __forceinline__ void multiply_wide(RingCursor& ring, const WideMatrix& m, int stages, int columns,
                                              WideOperands at, float (&acc)[kWgmmaSums]) {
#pragma unroll
  for (int i = 0; i < kWgmmaSums; ++i) acc[i] = 0;
  const LanePlace place(m.bits, hidden_thread() & 31);
  const int tiles_at = hidden(at.tiles);
  const unsigned rows = static_cast<unsigned>(hidden(static_cast<int>(swizzled_rows(ring.stages + at.tokens))));
  const unsigned stage_step = static_cast<unsigned>(ring.stage_bytes) >> 4;  // in units of a descriptor
  WideFragments w;
  int before = 0;  // the stage that was left
#pragma unroll 1
  for (int s = 0; s < stages; ++s) {
    ring.wait_full();
    if (s > 0) {
      wgmma_wait<0>();
      release_stage(&ring.barriers->empty[before]);
    }
    const unsigned char* const tiles = ring.data() + tiles_at;
    if (kAllMul1 || m.mul1) {
      decode_any_width<true>(m, place, tiles, w);
    } else {
      decode_any_width<false>(m, place, tiles, w);
    }
    before = ring.stage;
    start_wgmma(acc, w, rows + static_cast<unsigned>(before) * stage_step, columns);
    ring.advance();
  }
  wgmma_wait<0>();
  wgmma_settle(acc);
  release_stage(&ring.barriers->empty[before]);
}

}  // namespace fairway::kernels::cuda
