// The SIMD trait with one lane: the vector code of the block operations as plain C++, for the reference rows.
#pragma once

#include <bit>
#include <cstdint>

namespace fairway::kernels::scalar {

struct Simd {
  using F = float;
  using I = std::int32_t;
  static constexpr int kLanes = 1;

  static F load(const float* p) { return *p; }
  static void store(float* p, F v) { *p = v; }
  static F set1(float v) { return v; }
  static I set1_i(std::int32_t v) { return v; }
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F mul(F a, F b) { return a * b; }
  static F div(F a, F b) { return a / b; }
  // Like the x86 instructions: the second operand if either is NaN.
  static F min(F a, F b) { return a < b ? a : b; }
  static F max(F a, F b) { return a > b ? a : b; }
  static I as_int(F v) { return std::bit_cast<I>(v); }
  static F as_float(I v) { return std::bit_cast<F>(v); }
  static I add_i(I a, I b) { return static_cast<I>(static_cast<std::uint32_t>(a) + static_cast<std::uint32_t>(b)); }
  static I sub_i(I a, I b) { return static_cast<I>(static_cast<std::uint32_t>(a) - static_cast<std::uint32_t>(b)); }
  template <int kCount>
  static I shift_left(I v) {
    return static_cast<I>(static_cast<std::uint32_t>(v) << kCount);
  }
  template <int kCount>
  static I shift_right_signed(I v) {
    return v >> kCount;
  }
};

}  // namespace fairway::kernels::scalar
