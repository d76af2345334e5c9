// The eight windows of a lane in one tile, with as few instructions as its width allows, and those in balance: shifts
// by a product with a power of two and bit instructions take different pipes.
#pragma once

#include "kernels/trellis_band/cuda/trellis_decode.cuh"

namespace fairway::kernels::cuda {

// From the words that the lane has read of the tile. At 3 bits the two windows that lie in two words are taken from one
// register of their own, straight from the words. At 2 and 4 bits one shift serves windows that are whole bytes apart,
// at 5 and 6 bits one those that lie in two words or near to that.
template <int kBits>
__device__ __forceinline__ void tile_windows(const LaneStream<kBits>& stream, const u32 (&w)[LaneStream<kBits>::kWords],
                                             u32 (&x)[8]) {
  u32 a[3];
  if constexpr (kBits == 3) {
    const u32 from_bit_5 = __funnelshift_r(w[0], w[1], static_cast<u32>(stream.drop) + 5);
    a[0] = __byte_perm(w[0], w[1], stream.select);
    a[1] = a[2] = 0;
    windows<kBits, true>(a, x);
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
  } else if constexpr (kBits == 5) {
    stream.align(w, a);
    const u32 from_bit_20 = __funnelshift_r(a[0], a[1], 20);
    x[0] = multiply_by_power<1>(from_bit_20) >> 16;
    x[1] = multiply_by_power<6>(from_bit_20) >> 16;
    x[2] = multiply_by_power<11>(from_bit_20) >> 16;
    x[3] = from_bit_20 & 0xFFFFu;
    x[4] = multiply_by_power<1>(a[0]) >> 16;
    x[5] = multiply_by_power<6>(a[0]) >> 16;
    x[6] = multiply_by_power<11>(a[0]) >> 16;
    x[7] = a[0] & 0xFFFFu;
  } else if constexpr (kBits == 6) {
    stream.align(w, a);
    const u32 from_bit_18 = __funnelshift_r(a[0], a[1], 18);
    x[0] = multiply_by_power<6>(a[1]) >> 16;
    x[1] = multiply_by_power<12>(a[1]) >> 16;
    x[2] = multiply_by_power<4>(from_bit_18) >> 16;
    x[3] = multiply_by_power<10>(from_bit_18) >> 16;
    x[4] = from_bit_18 & 0xFFFFu;
    x[5] = multiply_by_power<4>(a[0]) >> 16;
    x[6] = multiply_by_power<10>(a[0]) >> 16;
    x[7] = a[0] & 0xFFFFu;
  } else {
    stream.align(w, a);
    windows<kBits>(a, x);
  }
}

}  // namespace fairway::kernels::cuda
