// Products of floats with signed bytes, four at a time, without converting the bytes.
#pragma once

#include "kernels/attention_mla/cuda/int8_halves.cuh"

namespace fairway::kernels::cuda {

// A biased byte b = weight + 128 in the mantissa of a float of exponent 15 is 2^15 + b: one permutation. What is too
// much, x times kByteShift, is taken off the whole sum: that costs it 2^-9 of |x| in each term, where a weight has
// up to 127.
constexpr float kByteShift = 32768.0f + 128.0f;

template <int kByte>
__device__ __forceinline__ float shifted_byte(unsigned biased) {
  return __uint_as_float(__byte_perm(biased, 0x47000000u, 0x7404 | kByte << 4));
}

// sum[j] += (weight j + kByteShift) * x
__device__ __forceinline__ void add_shifted(float (&sum)[4], unsigned biased, float x) {
  sum[0] = fmaf(shifted_byte<0>(biased), x, sum[0]);
  sum[1] = fmaf(shifted_byte<1>(biased), x, sum[1]);
  sum[2] = fmaf(shifted_byte<2>(biased), x, sum[2]);
  sum[3] = fmaf(shifted_byte<3>(biased), x, sum[3]);
}
// sum += of four such products
__device__ __forceinline__ void add_shifted(float& sum, unsigned biased, float4 x) {
  sum = fmaf(shifted_byte<0>(biased), x.x, sum);
  sum = fmaf(shifted_byte<1>(biased), x.y, sum);
  sum = fmaf(shifted_byte<2>(biased), x.z, sum);
  sum = fmaf(shifted_byte<3>(biased), x.w, sum);
}

}  // namespace fairway::kernels::cuda
