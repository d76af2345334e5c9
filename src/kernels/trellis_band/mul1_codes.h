// How integer kernels read mul1. A value before its final rounding is a * n - 3.453125 with n = 0..1020 the sum of the
// four bytes b0..b3 of the state's product; n has the deviation 147.8.
//
// kMul1Pairs: n = 2 c - 1 with the code c = avg(b0, b2) + avg(b1, b3), kept as its two bytes, where avg rounds up as
// the byte average instructions do. The error of 0.707 in n is 0.48 % (mean 2e-4). |sum(c q)| of a 128-input block is
// at most 510 * 127 * 128 < 2^23.
//
// kMul1Bytes: n = 4 c + 1.5 with the code c = n / 4 rounded down, one byte; the mean of n mod 4 over all states
// is 1.5001. The error of 1.118 in n is 0.76 %. A lane of 32 bits holds four inputs instead of two, so rows cost half
// the products.
//
// kMul1Words: n itself, 16 bits, multiplied by activations of 15 bits: 1020 * 16383 * 128 < 2^31. As many products as
// kMul1Pairs and nearly as exact as fp32, for two or three more operations per decoded weight pair.
#pragma once

#include "codec/trellis.h"

namespace fairway::kernels {

// a = 1774 * 2^-18 and 3.453125 = -(1024 a + bias) = 905216 * 2^-18, exact; not 510 a.
static_assert(1024 * codec::kMul1ScaleNumerator + codec::kMul1BiasNumerator == -905216 && 905216 == 262144 * 3.453125);

// value = step * code - offset.
struct CodeScale {
  float step, offset;
};
constexpr CodeScale mul1_scale(int n_per_code, double n_at_zero) {
  constexpr double kA = codec::kMul1ScaleNumerator / 262144.0;
  return {static_cast<float>(n_per_code * kA), static_cast<float>(3.453125 - n_at_zero * kA)};
}
constexpr CodeScale kMul1Pairs = mul1_scale(2, -1.0);
constexpr CodeScale kMul1Words = mul1_scale(1, 0.0);
constexpr CodeScale kMul1Bytes = mul1_scale(4, 1.5);

}  // namespace fairway::kernels
