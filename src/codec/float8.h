// The two 8-bit float formats of checkpoints, widened exactly.
#pragma once

#include <bit>
#include <cstdint>

#include "codec/half.h"

namespace fairway::codec {

// E4M3 without infinities: exponent bias 7, 0x7F and 0xFF are NaN, the largest value is 448.
constexpr float float_from_e4m3(std::uint8_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x80u) << 24;
  const std::uint32_t exponent = bits >> 3 & 0xFu;
  const std::uint32_t mantissa = bits & 0x7u;
  if (exponent == 15 && mantissa == 7) return std::bit_cast<float>(sign | 0x7FC00000u);
  if (exponent > 0) return std::bit_cast<float>(sign | (exponent + 120) << 23 | mantissa << 20);
  const float magnitude = static_cast<float>(mantissa) * 0.001953125f;  // 2^-9
  return sign != 0 ? -magnitude : magnitude;
}

// E5M2 is the upper byte of a half.
constexpr float float_from_e5m2(std::uint8_t bits) {
  return float_from_half(static_cast<std::uint16_t>(bits << 8));
}

}  // namespace fairway::codec
