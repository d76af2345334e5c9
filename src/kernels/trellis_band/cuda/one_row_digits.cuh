// The 15-bit inputs of a single row as the byte tensor instruction takes them, for kernels whose warps read each of
// them once or twice.
#pragma once

#include "kernels/trellis_band/cuda/int_band.cuh"

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

}  // namespace fairway::kernels::cuda
