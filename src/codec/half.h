// Scalar conversions between float and the two 16-bit formats, exact or round-to-nearest-even.
#pragma once

#include <bit>
#include <cstdint>

namespace fairway::codec {

// IEEE binary16 bit pattern -> float. Exact for every input, NaN payloads included.
constexpr float float_from_half(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  std::uint32_t exponent = h >> 10 & 0x1Fu;
  std::uint32_t mantissa = h & 0x3FFu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | mantissa << 13);
  if (exponent == 0) {
    if (mantissa == 0) return std::bit_cast<float>(sign);
    exponent = 1;
    while (!(mantissa & 0x400u)) {
      mantissa <<= 1;
      --exponent;
    }
    mantissa &= 0x3FFu;
  }
  return std::bit_cast<float>(sign | (exponent + 112u) << 23 | mantissa << 13);
}

// float -> IEEE binary16 bit pattern, nearest even; overflow becomes infinity, NaN stays NaN.
constexpr std::uint16_t half_from_float(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint16_t sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<std::uint16_t>(sign | 0x7E00u);
  if (magnitude >= 0x47800000u) return static_cast<std::uint16_t>(sign | 0x7C00u);  // >= 65536
  std::uint32_t significand, drop, base;
  if (magnitude >= 0x38800000u) {  // normal half
    significand = magnitude;
    drop = 13;
    base = 112u << 10;
  } else {
    const std::uint32_t exponent = magnitude >> 23;
    if (exponent < 102) return sign;  // below half the smallest subnormal
    significand = (magnitude & 0x7FFFFFu) | 0x800000u;
    drop = 126 - exponent;
    base = 0;
  }
  std::uint32_t result = (significand >> drop) - base;
  const std::uint32_t rest = significand & ((1u << drop) - 1u);
  const std::uint32_t tie = 1u << (drop - 1);
  if (rest > tie || (rest == tie && (result & 1u))) ++result;
  return static_cast<std::uint16_t>(sign | result);
}

constexpr float float_from_bfloat(std::uint16_t b) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(b) << 16);
}

// float -> bfloat16 bit pattern, nearest even; NaN stays NaN.
constexpr std::uint16_t bfloat_from_float(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace fairway::codec
