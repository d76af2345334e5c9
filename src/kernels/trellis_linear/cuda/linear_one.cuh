// The pieces of a linear layer of one row inside another launch: a warp has a run of up to two blocks of the inputs,
// with a fixed point of its own, so that it makes their digits and multiplies its tile rows without asking the others.
// The code is short, because it runs once.
#pragma once

#include "kernels/trellis_band/cuda/int_band.cuh"

namespace fairway::kernels::cuda {

constexpr int kOneBlocks = 2;  // of 128 inputs, that a warp has at most

// hadamard128() of two blocks and the sum of another value over the warp, step by step together: shuffles stay in the
// order in which they are written, and each step waits for its own.
__device__ __forceinline__ void hadamard128_one(float (&v)[kOneBlocks][4], float& sum) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int b = 0; b < kOneBlocks; ++b) hadamard128_begin(v[b]);
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const float sign = lane & distance ? -1.0f : 1.0f;
    float other[kOneBlocks][4];
#pragma unroll
    for (int b = 0; b < kOneBlocks; ++b) {
#pragma unroll
      for (int i = 0; i < 4; ++i) other[b][i] = __shfl_xor_sync(0xFFFFFFFFu, v[b][i], distance);
    }
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, distance);
#pragma unroll
    for (int b = 0; b < kOneBlocks; ++b) {
#pragma unroll
      for (int i = 0; i < 4; ++i) v[b][i] = fmaf(v[b][i], sign, other[b][i]);
    }
  }
}

// What a warp's digits mean: a sum of n * digit is `unit` * (kMul1Scale * sum + bias) of weights times inputs.
struct OneUnit {
  float unit, bias;
};

// The digits of `count` transformed blocks to digits[0..count * kBand), high ones, and `stride` bytes behind, low ones,
// in fragment order. v: of the others is zero.
__device__ __forceinline__ OneUnit store_one_digits(const float (&v)[kOneBlocks][4], int count, unsigned char* digits,
                                                    int stride) {
  const int lane = threadIdx.x & 31;
  const float own = fmaxf(IntBand<1>::largest_of(v[0]), IntBand<1>::largest_of(v[1]));
  // Without a sign the bits are ordered as the floats are.
  const float largest = __int_as_float(__reduce_max_sync(0xFFFFFFFFu, __float_as_int(own)));
  const float inverse = largest > 0 ? __fdividef(kDigitMax, largest) : 0.0f;
  int sum = 0;
#pragma unroll
  for (int b = 0; b < kOneBlocks; ++b) {
    if (b >= count) break;
    unsigned char* const at = digits + b * kBand;
    sum += IntBand<1>::store_pair(at, stride, 4 * lane, v[b][0] * inverse, v[b][1] * inverse) +
           IntBand<1>::store_pair(at, stride, 4 * lane + 2, v[b][2] * inverse, v[b][3] * inverse);
  }
  return {largest * (1.0f / kDigitMax), kMul1Bias * static_cast<float>(__reduce_add_sync(0xFFFFFFFFu, sum))};
}

// acc[column] += the tiles of 2 * pairs tile rows, `row_bytes` apart and kColumns side by side, times their digits. The
// first two columns of an accumulator are the sums of high and low digits; nobody looks at the others.
template <int kBits, int kColumns>
__device__ __forceinline__ void walk_one(const unsigned char* tiles, int row_bytes, int pairs,
                                         const unsigned char* digits, int stride, int (&acc)[kColumns][1][4]) {
  const int lane = threadIdx.x & 31;
  const LaneStream<kBits> stream(lane);
  const unsigned char* in = digits + min(lane >> 2, 1) * stride + (lane & 3) * 8;
#pragma unroll 1
  for (; pairs > 0; --pairs, in += 32, tiles += 2 * row_bytes) {
    const uint2 both = *reinterpret_cast<const uint2*>(in);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      u32 b[1][4];
      repeat_digits(row == 0 ? both.x : both.y, b[0]);
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
        u32 a[3], x[8];
        stream.load(tiles + row * row_bytes + column * (32 * kBits), a);
        windows<kBits>(a, x);
        multiply_tile<1>(x, b, acc[column]);
      }
    }
  }
}

// The same for any width; the sums of 16 * kColumns outputs to `to`.
template <int kColumns>
__device__ __forceinline__ void multiply_one(int bits, const unsigned char* tiles, int row_bytes, int pairs,
                                             const unsigned char* digits, int stride, const OneUnit& unit, float* to) {
  int acc[kColumns][1][4] = {};
  switch (bits) {
#define FAIRWAY_CASE(bits)                                                  \
  case bits:                                                                \
    walk_one<bits, kColumns>(tiles, row_bytes, pairs, digits, stride, acc); \
    break;
    FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
  }
  const int lane = threadIdx.x & 31;
  if ((lane & 3) != 0) return;
#pragma unroll
  for (int column = 0; column < kColumns; ++column) {
    const int(&c)[4] = acc[column][0];
    const float low = 128.0f * static_cast<float>(c[0]) + static_cast<float>(c[1]);
    const float high = 128.0f * static_cast<float>(c[2]) + static_cast<float>(c[3]);
    to[16 * column + (lane >> 2)] = unit.unit * fmaf(kMul1Scale, low, unit.bias);
    to[16 * column + (lane >> 2) + 8] = unit.unit * fmaf(kMul1Scale, high, unit.bias);
  }
}

}  // namespace fairway::kernels::cuda
