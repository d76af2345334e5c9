// Signed bytes as halves, exactly.
#pragma once

#include <cuda_fp16.h>

namespace fairway::kernels::cuda {

// Makes signed bytes unsigned, by adding 128: what halves_of_* take.
__device__ __forceinline__ unsigned biased_bytes(unsigned bytes) {
  return bytes ^ 0x80808080u;
}

// 0x6400 + b is the half 1024 + b.
__device__ __forceinline__ unsigned unbias(unsigned pair) {
  const __half2 minus = __half2half2(__ushort_as_half(0xE480));  // -(1024 + 128)
  const __half2 sum = __hadd2(*reinterpret_cast<const __half2*>(&pair), minus);
  return *reinterpret_cast<const unsigned*>(&sum);
}
// The lower and the upper two of four biased bytes.
__device__ __forceinline__ unsigned halves_of_low(unsigned biased) {
  return unbias(__byte_perm(biased, 0x64646464u, 0x4140));
}
__device__ __forceinline__ unsigned halves_of_high(unsigned biased) {
  return unbias(__byte_perm(biased, 0x64646464u, 0x4342));
}

}  // namespace fairway::kernels::cuda
