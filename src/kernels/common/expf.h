// The exponential of the kernels: one polynomial for every instruction set, with the same bits on all of them.
//
// Only additions, multiplications and bit operations, no fused multiply-add, so a scalar and a vector build agree as
// long as the compiler does not contract expressions. Largest error kExpMaxUlp against the real exponential for results
// in the normal range; overflow gives infinity, results below the smallest subnormal give zero, NaN stays NaN.
#pragma once

#include <cstdint>
#include <cstring>

namespace fairway::kernels {

constexpr double kExpMaxUlp = 1.0;  // held by tests/kernels/common/expf_test.cc, which finds 0.93

// S: a SIMD trait (see trellis_band/simd_*.h) or ScalarMath.
template <class S>
inline typename S::F exp_poly(typename S::F x) {
  using F = typename S::F;
  // Beyond these limits the result is infinity or zero anyway. NaN is the second operand, which min and max return.
  x = S::max(S::set1(-104.0f), S::min(S::set1(89.0f), x));
  // n = round(x / ln 2): adding 1.5 * 2^23 leaves the rounded integer in the low mantissa bits.
  const F magic = S::set1(12582912.0f);
  const F shifted = S::add(S::mul(x, S::set1(1.442695041f)), magic);
  const F n = S::sub(shifted, magic);
  // ln 2 = 355/512 - 2.1219444e-4; the first part has nine bits, so n times it is exact.
  F r = S::sub(x, S::mul(n, S::set1(0.693359375f)));
  r = S::sub(r, S::mul(n, S::set1(-0.00021219444f)));
  // exp(r) = 1 + r + r^2 q(r) on |r| <= ln2 / 2: weighted least squares fit, relative error 4.4e-9 before rounding.
  F q = S::set1(0.00138144672f);
  q = S::add(S::mul(q, r), S::set1(0.00836878084f));
  q = S::add(S::mul(q, r), S::set1(0.0416683927f));
  q = S::add(S::mul(q, r), S::set1(0.166665196f));
  q = S::add(S::mul(q, r), S::set1(0.49999994f));
  const F p = S::add(S::add(S::mul(S::mul(r, r), q), r), S::set1(1.0f));
  // 2^n in two factors, each a normal float: n lies in [-150, 128].
  const auto exponent = S::sub_i(S::as_int(shifted), S::as_int(magic));
  const auto half = S::template shift_right_signed<1>(exponent);
  const auto bias = S::set1_i(127);
  const F scale1 = S::as_float(S::template shift_left<23>(S::add_i(half, bias)));
  const F scale2 = S::as_float(S::template shift_left<23>(S::add_i(S::sub_i(exponent, half), bias)));
  return S::mul(S::mul(p, scale1), scale2);
}

// silu(gate) * up = gate / (1 + exp(-gate)) * up.
template <class S>
inline typename S::F swiglu(typename S::F gate, typename S::F up) {
  using F = typename S::F;
  const F denominator = S::add(S::set1(1.0f), exp_poly<S>(S::sub(S::set1(0.0f), gate)));
  return S::mul(S::div(gate, denominator), up);
}

}  // namespace fairway::kernels
