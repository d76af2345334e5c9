// The loop of the stream kernel: walk_int() for a team of warps, with everything that does
// not change from one stage to the next kept in registers.
#pragma once

#include "kernels/moe_swiglu/cuda/stream_args.cuh"
#include "kernels/trellis_band/cuda/walk_int.cuh"

namespace fairway::kernels::cuda {

static_assert(kTeamWarps == 2 * kIntRowParts);  // each two of a block's tile rows, and half of its columns

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
