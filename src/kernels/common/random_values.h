// Content of tensors that only their size is wanted of: numbers by seed and place, the same on the host and on a
// device.
#pragma once

#include <cstdint>

#include "codec/trellis.h"

namespace fairway::kernels {

// splitmix64's output function (Steele, Lea, Flood 2014) of the seed's sequence at i.
FAIRWAY_HOST_DEVICE constexpr std::uint64_t random_hash(std::uint64_t seed, std::uint64_t i) {
  std::uint64_t z = seed * 0xD1342543DE82EF95u + (i + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

FAIRWAY_HOST_DEVICE constexpr std::uint32_t random_word(std::uint64_t seed, std::uint64_t i) {
  return static_cast<std::uint32_t>(random_hash(seed, i) >> 32);
}

// Uniform, of this standard deviation and mean 0. Every step but the last two products is exact, so that it does not
// matter who computes them.
FAIRWAY_HOST_DEVICE constexpr float random_value(std::uint64_t seed, std::uint64_t i, float deviation) {
  constexpr float kRange = 1.7320508f;                                                     // of standard deviation 1
  const float unit = static_cast<float>(random_hash(seed, i) >> 40) * (1.0f / (1 << 24));  // [0, 1)
  return (2.0f * unit - 1.0f) * kRange * deviation;
}

}  // namespace fairway::kernels
