// The loop of the stream kernel: walk_int() for a team of warps, with everything that does
// not change from one stage to the next kept in registers.
#pragma once

#include "kernels/moe_swiglu/cuda/stream_args.cuh"
#include "kernels/trellis_band/cuda/walk_int.cuh"

namespace fairway::kernels::cuda {

static_assert(kTeamWarps == 2 * kIntRowParts);  // each two of a block's tile rows, and half of its columns

// The eight windows of a lane in one tile, from the words that it has read of it. At 3 bits the two that lie in two
// words are taken from one register of their own, straight from the words. At 2 and 4 bits one shift serves windows
// that are whole bytes apart.
template <int kBits>
__device__ __forceinline__ void tile_windows(const LaneStream<kBits>& stream, const u32 (&w)[LaneStream<kBits>::kWords],
                                             u32 (&x)[8]) {
  u32 a[3];
  if constexpr (kBits == 3) {
    const u32 from_bit_5 = __funnelshift_r(w[0], w[1], static_cast<u32>(stream.drop) + 5);
    a[0] = __byte_perm(w[0], w[1], stream.select);
    a[1] = a[2] = 0;
    windows<kBits>(a, x);
    x[0] = from_bit_5 >> 16;
    x[1] = multiply_by_power<3>(from_bit_5) >> 16;
  } else if constexpr (kBits == 4) {
    const u32 from_bit_12 = __funnelshift_r(w[0], w[1], 12);
    x[0] = from_bit_12 >> 16;
    x[1] = __funnelshift_r(w[0], w[1], 24) & 0xFFFFu;
    x[2] = __byte_perm(from_bit_12, 0, 0x4421);
    x[3] = w[0] >> 16;
    x[4] = __byte_perm(from_bit_12, 0, 0x4410);
    x[5] = __byte_perm(w[0], 0, 0x4421);
    x[6] = multiply_by_power<12>(w[0]) >> 16;
    x[7] = __byte_perm(w[0], 0, 0x4410);
  } else if constexpr (kBits == 2) {
    stream.align(w, a);
    const u32 by_2 = multiply_by_power<2>(a[0]), by_4 = multiply_by_power<4>(a[0]), by_6 = multiply_by_power<6>(a[0]);
    x[0] = by_2 >> 16;
    x[1] = by_4 >> 16;
    x[2] = by_6 >> 16;
    x[3] = __byte_perm(a[0], 0, 0x4421);
    x[4] = __byte_perm(by_2, 0, 0x4421);
    x[5] = __byte_perm(by_4, 0, 0x4421);
    x[6] = __byte_perm(by_6, 0, 0x4421);
    x[7] = __byte_perm(a[0], 0, 0x4410);
  } else {
    stream.align(w, a);
    windows<kBits>(a, x);
  }
}

// One tile row: four[group] is a lane's four digits of it.
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

// Where a lane reads in a stage. Of a width that is known only at run time, so that it can be found before the weights
// or the inputs are there: then the widths' loops have little in front of them.
struct StagePlace : LanePlace {
  int input = 0;  // bytes from the first digit of a block

  StagePlace() = default;
  __device__ StagePlace(int bits, int input_stride) : LanePlace(bits, static_cast<int>(threadIdx.x & 31)) {
    const int lane = static_cast<int>(threadIdx.x & 31), warp = static_cast<int>(threadIdx.x >> 5) % kTeamWarps;
    const int column_half = warp & 1, row_part = warp >> 1;
    input = (lane >> 2) * input_stride + row_part * 32 + (lane & 3) * 8;
#pragma unroll
    for (int& bytes : offset) bytes += (2 * row_part * kBandTiles + column_half * kIntTiles) * (32 * bits);
  }
};

// `blocks` stages of the ring. input: the digits of the first block. acc[tile][group]: sums of n * digit, columns 2i,
// 2i + 1 of a group are the digits of its token i.
template <int kBits, int kGroups>
__device__ __forceinline__ void walk_stream(RingCursor& ring, int blocks, const unsigned char* input, int input_stride,
                                            const StagePlace& place, int (&acc)[kIntTiles][kGroups][4]) {
  const LaneStream<kBits> stream(place);
  const unsigned char* in = input + place.input;
#pragma unroll 1
  for (; blocks > 0; --blocks, in += kBand) {
    u32 upper[kGroups], lower[kGroups];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const uint2 digits = *reinterpret_cast<const uint2*>(in + 8 * g * input_stride);
      upper[g] = digits.x;
      lower[g] = digits.y;
    }
    ring.wait_full();
    const unsigned char* const tiles = ring.data();
    multiply_row<kBits, kGroups>(stream, tiles, upper, acc);
    multiply_row<kBits, kGroups>(stream, tiles + kBandTiles * stream.kTileBytes, lower, acc);
    ring.release();
    ring.advance();
  }
}

}  // namespace fairway::kernels::cuda
