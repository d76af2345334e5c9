// Device decode of a trellis tile: a warp decodes one tile, lane t the stream positions 8t..8t+7.
//
// With g = t / 4 and q = t % 4 these are, in order, rows 2q + {0, 1, 8, 9} of column g and then of column g + 8: the
// values a lane owns as the A operand of the 16-wide tensor instructions (A rows = tile columns, A columns = tile
// rows). A lane's stretch of the stream ends on a byte, at byte bits * (t + 1), so after one byte permute per register
// its eight windows lie at distances that are compile-time constants.
#pragma once

#include <cuda_fp16.h>

#include "codec/trellis.h"
#include "kernels/common/cuda/hopper.cuh"

namespace fairway::kernels::cuda {

using codec::u32;

// The words a lane reads of every tile of one width, and how it aligns them.
struct LanePlace {
  int offset[3];  // bytes from the start of the tile; [0] holds the lane's last bit, the others precede it
  u32 select;     // byte permute that drops the bits after the lane's last one
  int drop;       // their number, 0, 8, 16 or 24

  LanePlace() = default;
  __device__ LanePlace(int bits, int lane) {
    const int last = (bits * (lane + 1) * 8 - 1) / 32;
    for (int i = 0; i < 3; ++i) offset[i] = (last - i + (last < i ? 8 * bits : 0)) * 4;
    drop = 32 * (last + 1) - 8 * bits * (lane + 1);
    select = 0x3210u + 0x1111u * static_cast<u32>(drop / 8);
  }
};

template <int kBits>
struct LaneStream : LanePlace {
  static constexpr int kWords = kBits <= 4 ? 2 : 3;
  static constexpr int kTileBytes = 32 * kBits;

  __device__ explicit LaneStream(int lane) : LanePlace(kBits, lane) {}
  __device__ explicit LaneStream(const LanePlace& place) : LanePlace(place) {}

  // The words of a tile that the lane's windows are in.
  __device__ __forceinline__ void read(const unsigned char* tile, u32 (&w)[kWords]) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) w[i] = *reinterpret_cast<const u32*>(tile + offset[i]);
  }

  // a[0] = the 32 stream bits that end with the lane's last, a[1] the 32 before them, ..., as far as windows reach.
  __device__ __forceinline__ void align(const u32 (&w)[kWords], u32 (&a)[3]) const {
    if constexpr (kBits == 4) {
      a[0] = w[0];
      a[1] = w[1];
    } else if constexpr (kBits < 4) {
      a[0] = __byte_perm(w[0], w[1], select);
      a[1] = kBits == 3 ? w[1] >> drop : 0;
    } else {
      a[0] = kBits == 8 ? w[0] : __byte_perm(w[0], w[1], select);
      a[1] = kBits == 8 ? w[1] : __byte_perm(w[1], w[2], select);
      a[2] = kBits == 8 ? w[2] : w[2] >> drop;
    }
  }

  __device__ __forceinline__ void load(const unsigned char* tile, u32 (&a)[3]) const {
    u32 w[kWords];
    read(tile, w);
    align(w, a);
  }
};

// The 16-bit window that starts kShift bits above the end of a. One instruction where it starts on a byte of one
// register, two elsewhere; kMultiply: one of them on the multiplier, if that is possible.
template <int kShift, bool kMultiply>
__device__ __forceinline__ u32 window(const u32 (&a)[3]) {
  constexpr int kWord = kShift / 32, kOffset = kShift % 32;
  if constexpr (kOffset == 16) {
    return a[kWord] >> 16;
  } else if constexpr (kOffset + 16 <= 32 && kOffset % 8 == 0) {
    constexpr u32 kByte = kOffset / 8;
    return __byte_perm(a[kWord], 0, 0x4400u | (kByte + 1) << 4 | kByte);
  } else if constexpr (kOffset < 16 && kMultiply) {
    return multiply_by_power<16 - kOffset>(a[kWord]) >> 16;
  } else if constexpr (kOffset < 16) {
    return a[kWord] >> kOffset & 0xFFFFu;
  } else {
    return __funnelshift_r(a[kWord], a[kWord + 1], kOffset) & 0xFFFFu;
  }
}

// kOneMore: one window more is shifted by the multiplier, for callers that have little else for it to do.
template <int kBits, bool kOneMore = false>
__device__ __forceinline__ void windows(const u32 (&a)[3], u32 (&state)[8]) {
  state[0] = window<7 * kBits, true>(a);
  state[1] = window<6 * kBits, false>(a);
  state[2] = window<5 * kBits, true>(a);
  state[3] = window<4 * kBits, kOneMore>(a);
  state[4] = window<3 * kBits, true>(a);
  state[5] = window<2 * kBits, true>(a);
  state[6] = window<1 * kBits, true>(a);
  state[7] = window<0, false>(a);
}

__device__ __forceinline__ u32 as_bits(__half2 v) {
  return *reinterpret_cast<u32*>(&v);
}
__device__ __forceinline__ __half2 as_half2(u32 v) {
  return *reinterpret_cast<__half2*>(&v);
}

// mul1 values of two states as a half pair, exactly the format's: 0x6400 + n is the half 1024 + n for n < 1024, so one
// fused multiply-add is the format's own last step.
__device__ __forceinline__ u32 mul1_pair(u32 s0, u32 s1) {
  const u32 n0 = __dp4a(s0 * codec::kMul1Multiplier, 0x01010101u, 0x64006400u);
  const u32 n1 = __dp4a(s1 * codec::kMul1Multiplier, 0x01010101u, 0u);
  return as_bits(__hfma2(as_half2(n1 * 65536u + n0), as_half2(0x1EEE1EEEu), as_half2(0xC931C931u)));
}

// 3inst and mcg values of two states: each is the sum of two halves made from one product.
__device__ __forceinline__ u32 sum_pair(u32 s0, u32 s1, u32 multiplier, u32 addend) {
  const u32 x0 = ((s0 * multiplier + addend) & codec::kHalfPairMask) ^ codec::kHalfPairFlip;
  const u32 x1 = ((s1 * multiplier + addend) & codec::kHalfPairMask) ^ codec::kHalfPairFlip;
  return as_bits(__hadd2(as_half2(__byte_perm(x0, x1, 0x5410)), as_half2(__byte_perm(x0, x1, 0x7632))));
}

}  // namespace fairway::kernels::cuda
