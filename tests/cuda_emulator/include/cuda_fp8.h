// The conversions of CUDA's fp8 header that the cache uses, for E4M3 with saturation to the largest finite value.
#pragma once

#include "codec/float8.h"
#include "cuda_fp16.h"

using __nv_fp8_storage_t = unsigned char;
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };

// Nearest even; what is beyond 448 becomes 448, NaN stays NaN.
inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float v, __nv_saturation_t saturation, __nv_fp8_interpretation_t kind) {
  if (saturation != __NV_SATFINITE || kind != __NV_E4M3) fairway::cuda_emulator::fail("fp8: only saturating E4M3");
  const auto sign = static_cast<unsigned char>(std::signbit(v) ? 0x80 : 0);
  if (v != v) return static_cast<unsigned char>(sign | 0x7F);
  const double magnitude = std::fabs(static_cast<double>(v));
  if (magnitude >= 448) return static_cast<unsigned char>(sign | 0x7E);
  int exponent = -6;  // the smallest; below it are subnormals of the same step
  if (magnitude >= 0x1p-6) exponent = std::ilogb(magnitude);
  const auto steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 3 - exponent)));  // of 2^(exponent - 3)
  return static_cast<unsigned char>(sign | ((exponent + 6) * 8 + steps));
}
