// Signs that make weights and inputs incoherent, from a name instead of a generator's state, so that any order of work
// gives the same bits.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace fairway::quantize {

// 64 well-mixed bits of a text and a seed (FNV-1a, then SplitMix64's finisher).
constexpr std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}
constexpr std::uint64_t hash_of(std::string_view text, std::uint64_t seed) {
  std::uint64_t hash = 0xCBF29CE484222325u ^ mix(seed);
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return mix(hash);
}

// count values of +1 or -1.
inline std::vector<float> random_signs(std::string_view name, std::uint64_t seed, int count) {
  const std::uint64_t start = hash_of(name, seed);
  std::vector<float> signs(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < signs.size(); ++i) signs[i] = (mix(start + i) >> 63) != 0 ? -1.0f : 1.0f;
  return signs;
}

}  // namespace fairway::quantize
