// The loop of the integer paths: mul1 weights times int8 digits of the tokens on the byte tensor instructions.
//
// A mul1 value is affine in the byte sum n of the 32-bit product state * multiplier. The product is one register of the
// A operand (four bytes along K), and with a token's digit repeated four times in B the tensor core adds up n * digit
// by itself: no weight is ever converted. A token takes two columns of B, the high and the low digit of a 15-bit
// fixed-point activation, so the activations lose less than halves do.
//
// Instructions per weight for one or two operand groups, 3 bits: window 1.9, multiply 1, tensor 0.25 or 0.5, loads
// 0.25.
#pragma once

#include "kernels/common/cuda/hidden.cuh"
#include "kernels/trellis_band/cuda/band.cuh"
#include "kernels/trellis_band/cuda/ring.cuh"
#include "kernels/trellis_band/cuda/tile_windows.cuh"

namespace fairway::kernels::cuda {

// A weight is kMul1Scale * n + kMul1Bias.
constexpr float kMul1Unit = 1.0f / (1 << codec::kMul1FractionBits);
constexpr float kMul1Scale = codec::kMul1ScaleNumerator * kMul1Unit;
constexpr float kMul1Bias = 1024 * kMul1Scale + codec::kMul1BiasNumerator * kMul1Unit;

constexpr int kIntTiles = 4;     // tiles side by side that a warp computes
constexpr int kIntRowParts = 4;  // warps that share those tiles, each two tile rows of a block

// The token operand of a tile row: each of a lane's four digits of it, repeated for the four bytes of a product.
__device__ __forceinline__ void repeat_digits(u32 four, u32 (&b)[4]) {
  b[0] = __byte_perm(four, 0, 0x0000);
  b[1] = __byte_perm(four, 0, 0x1111);
  b[2] = __byte_perm(four, 0, 0x2222);
  b[3] = __byte_perm(four, 0, 0x3333);
}

// acc[group] += one tile times the digits of each group. x: the tile's windows, which become products.
template <int kGroups>
__device__ __forceinline__ void multiply_tile(u32 (&x)[8], const u32 (&b)[kGroups][4], int (&acc)[kGroups][4]) {
#pragma unroll
  for (int j = 0; j < 8; ++j) x[j] *= codec::kMul1Multiplier;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) mma_u8s8(acc[g], x[0], x[4], x[1], x[5], b[g][0], b[g][1]);
#pragma unroll
  for (int g = 0; g < kGroups; ++g) mma_u8s8(acc[g], x[2], x[6], x[3], x[7], b[g][2], b[g][3]);
}

// One tile row: four[group] is a lane's four digits of it. All words are read first: a warp has few neighbours that
// would hide what it waits for.
template <int kBits, int kGroups>
__device__ __forceinline__ void multiply_row(const LaneStream<kBits>& stream, const unsigned char* tiles,
                                             const u32 (&four)[kGroups], int (&acc)[kIntTiles][kGroups][4]) {
  u32 words[kIntTiles][LaneStream<kBits>::kWords];
#pragma unroll
  for (int tile = 0; tile < kIntTiles; ++tile) stream.read(tiles + tile * stream.kTileBytes, words[tile]);
  u32 b[kGroups][4];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) repeat_digits(four[g], b[g]);
#pragma unroll
  for (int tile = 0; tile < kIntTiles; ++tile) {
    u32 x[8];
    tile_windows<kBits>(stream, words[tile], x);
    multiply_tile<kGroups>(x, b, acc[tile]);
  }
}

// acc[tile][group]: sums of n * digit. Columns 2i, 2i + 1 of a group are the digits of its token i.
template <int kBits, int kGroups>
__device__ __forceinline__ void walk_int(RingCursor& ring, int blocks, const unsigned char* input, int input_stride,
                                         int (&acc)[kIntTiles][kGroups][4]) {
  const int thread = hidden_thread(), lane = thread & 31, warp = thread >> 5;
  const int column_half = warp & 1, row_part = warp >> 1;
  const LaneStream<kBits> stream(lane);
  const unsigned char* in = input + (lane >> 2) * input_stride + row_part * 32 + (lane & 3) * 8;
#pragma unroll 1
  for (int block = 0; block < blocks; ++block, in += kBand) {
    u32 upper[kGroups], lower[kGroups];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const uint2 digits = *reinterpret_cast<const uint2*>(in + 8 * g * input_stride);
      upper[g] = digits.x;
      lower[g] = digits.y;
    }
    ring.wait_full();
    const unsigned char* tiles = ring.data() + (2 * row_part * kBandTiles + column_half * kIntTiles) * (32 * kBits);
    multiply_row<kBits, kGroups>(stream, tiles, upper, acc);
    multiply_row<kBits, kGroups>(stream, tiles + kBandTiles * stream.kTileBytes, lower, acc);
    ring.release();
    ring.advance();
  }
}

}  // namespace fairway::kernels::cuda
