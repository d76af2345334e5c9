// Scales of weights as factors of halves.
#pragma once

#include <cuda_runtime.h>

namespace fairway::kernels::cuda {

// A power of two that brings the largest scale of `count` rows to between 1 and 2, so that products with scales are
// normal halves. All lanes of the warp call it.
__device__ inline float scale_normalizer(const float* scales, int count) {
  float most = 0;
  for (int n = static_cast<int>(threadIdx.x) % 32; n < count; n += 32) most = fmaxf(most, scales[n]);
  for (int d = 1; d < 32; d *= 2) most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, d));
  const int exponent = static_cast<int>(__float_as_uint(most) >> 23);
  return __uint_as_float(static_cast<unsigned>(254 - min(max(exponent, 1), 253)) << 23);
}

}  // namespace fairway::kernels::cuda
