// The 15-bit inputs of a single row as the byte tensor instruction takes them, for kernels whose warps read each of
// them once or twice.
#pragma once

#include "kernels/trellis_band/cuda/int_band.cuh"
#include "kernels/trellis_band/cuda/tile_windows.cuh"

namespace fairway::kernels::cuda {

constexpr int kOneRowDigits = 128;  // bytes of a tile row: 16 inputs, two digits, 4 bytes
constexpr int kOneBlockDigits = kBandTiles * kOneRowDigits;

// The digits of a lane's four inputs of a block: in its tile row [digit][lane of the instruction][place], a word each.
// Lane t has inputs 4t..4t+3; see fragment_order() for the places.
__device__ __forceinline__ void store_one_digits(unsigned char* block, const int (&q)[4]) {
  const int lane = threadIdx.x & 31;
  unsigned char* const at = block + (lane >> 2) * kOneRowDigits + (lane & 1) * 32 + (lane >> 1 & 1) * 8;
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    int high[2], low[2];
    IntBand<1>::split_digits(q[2 * pair], high[0], low[0]);
    IntBand<1>::split_digits(q[2 * pair + 1], high[1], low[1]);
    const auto four = [](int digit) { return __byte_perm(static_cast<u32>(digit), 0, 0x0000); };
    *reinterpret_cast<uint2*>(at + 16 * pair) = make_uint2(four(high[0]), four(high[1]));
    *reinterpret_cast<uint2*>(at + 16 * pair + kOneRowDigits / 2) = make_uint2(four(low[0]), four(low[1]));
  }
}

// What the digits of a block are: its inputs are `unit` times integers, which sum up to `sum`.
struct OneBlock {
  float unit;
  int sum;
};

// The digits of a block from a lane's four inputs, by a warp, with a fixed point of the block's own.
__device__ __forceinline__ OneBlock store_one_block(unsigned char* block, const float (&v)[4]) {
  // Without a sign the bits are ordered as the floats are.
  const float largest = __int_as_float(__reduce_max_sync(0xFFFFFFFFu, __float_as_int(IntBand<1>::largest_of(v))));
  const float inverse = largest > 0 ? __fdividef(kDigitMax, largest) : 0.0f;
  int q[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) q[i] = __float2int_rn(v[i] * inverse);
  store_one_digits(block, q);
  return {largest * (1.0f / kDigitMax), static_cast<int>(__reduce_add_sync(0xFFFFFFFFu, q[0] + q[1] + q[2] + q[3]))};
}

// Of a block: its sum of weight * input is unit * (sum of n * q) + rest, where n are the byte sums of the weights and q
// the integers of the inputs. A float keeps the sum of n * q to 2^-24 of it, and it is some four times what is left.
struct alignas(16) OneUnit {
  float unit, rest;
};
constexpr int kOneBlockBytes = kOneBlockDigits + static_cast<int>(sizeof(OneUnit));  // in shared memory

// store_one_block() and, behind the digits, the block's OneUnit.
__device__ __forceinline__ void store_one_unit(unsigned char* block, const float (&v)[4]) {
  const OneBlock digits = store_one_block(block, v);
  if ((threadIdx.x & 31) != 0) return;
  *reinterpret_cast<OneUnit*>(block + kOneBlockDigits) = {digits.unit * kMul1Scale,
                                                          digits.unit * kMul1Bias * static_cast<float>(digits.sum)};
}

// Where a lane reads the digits of a tile row.
__device__ __forceinline__ int one_digits_place() {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  return (lane >> 2 & 1) * (kOneRowDigits / 2) + (lane & 3) * 16;
}

// acc += kTiles tiles, one above the other and `step` bytes apart, times their digits. kColumns: of tiles, side by
// side. Of one column both sums of it are in acc, of two each has its own: two chains of tensor instructions in either
// case. All that a warp needs of them is read at once: it has few neighbours that would hide what it waits for.
template <int kTiles, int kColumns, int kBits>
__device__ __forceinline__ void multiply_columns(const LaneStream<kBits>& stream, const unsigned char* tiles, int step,
                                                 const unsigned char* digits, int (&acc)[2][4]) {
  u32 words[kTiles][kColumns][LaneStream<kBits>::kWords];
  uint4 b[kTiles];
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) stream.read(tiles + i * step + c * stream.kTileBytes, words[i][c]);
    b[i] = *reinterpret_cast<const uint4*>(digits + i * kOneRowDigits);
  }
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      u32 x[8];
      tile_windows<kBits>(stream, words[i][c], x);
#pragma unroll
      for (int j = 0; j < 8; ++j) x[j] *= codec::kMul1Multiplier;
      mma_u8s8(acc[c], x[0], x[4], x[1], x[5], b[i].x, b[i].y);
      mma_u8s8(acc[kColumns == 1 ? 1 : c], x[2], x[6], x[3], x[7], b[i].z, b[i].w);
    }
  }
}
template <int kTiles, int kBits>
__device__ __forceinline__ void multiply_one_column(const LaneStream<kBits>& stream, const unsigned char* tiles,
                                                    int step, const unsigned char* digits, int (&acc)[2][4]) {
  multiply_columns<kTiles, 1, kBits>(stream, tiles, step, digits, acc);
}

// The sum of n * q, of the lane's column lane / 4 + 8 * i. An int holds it for eight tiles: high digits times 128 and
// low ones make at most 1020 * 128 * kDigitMax.
__device__ __forceinline__ int one_digit_sum(const int (&acc)[2][4], int i) {
  return 128 * (acc[0][2 * i] + acc[1][2 * i]) + acc[0][2 * i + 1] + acc[1][2 * i + 1];
}

// sums[c][i] += a block's sum of weight * input without its rest, from its acc, of the lane's column lane / 4 + 8 * i
// of the tile column c. Returns the rest, which is the same for all.
template <int kColumns>
__device__ __forceinline__ float add_one_block(const unsigned char* block, const int (&acc)[2][4],
                                               float (&sums)[kColumns][2]) {
  const OneUnit u = *reinterpret_cast<const OneUnit*>(block + kOneBlockDigits);
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int n = kColumns == 1 ? one_digit_sum(acc, i) : 128 * acc[c][2 * i] + acc[c][2 * i + 1];
      sums[c][i] = fmaf(u.unit, static_cast<float>(n), sums[c][i]);
    }
  }
  return u.rest;
}

}  // namespace fairway::kernels::cuda
