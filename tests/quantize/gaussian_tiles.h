// What the tests of the tile coder share: Gaussian tiles, the error that codes of them have, and the check of a result.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "codec/packing.h"
#include "quantize/code_profile.h"
#include "quantize/tile_coder.h"

namespace fairway::quantize {

using codec::Codebook;
using Tile = std::array<float, codec::kTileWeights>;
using States = std::array<std::uint16_t, codec::kTileWeights>;

inline constexpr Codebook kCodebooks[] = {Codebook::k3inst, Codebook::kMcg, Codebook::kMul1};

inline Tile gaussian_tile(std::mt19937_64& random, double sigma) {
  std::normal_distribution<double> normal(0, sigma);
  Tile tile;
  for (float& w : tile) w = static_cast<float>(normal(random));
  return tile;
}

inline std::string name(Codebook codebook, int bits, CoderIsa isa) {
  return fmt::format("{} {} bits {}", codec::codebook_name(codebook), bits, coder_isa_name(isa));
}

// Packs, which fails unless the path is closed, and compares the decoded tile with the states and the reported error.
inline void expect_valid(const Tile& tile, const States& states, double error, Codebook codebook, int bits) {
  std::vector<std::uint16_t> words(static_cast<std::size_t>(16 * bits));
  ASSERT_NO_THROW(codec::pack_states(states, bits, words));
  std::array<float, codec::kTileWeights> decoded;
  codec::decode_tile(words, bits, codebook, decoded);
  double sum = 0;
  for (std::size_t p = 0; p < tile.size(); ++p) {
    const int at = codec::tile_row(static_cast<int>(p)) * codec::kTileDim + codec::tile_column(static_cast<int>(p));
    const double d = double{decoded[static_cast<std::size_t>(at)]} - double{tile[p]};
    sum += d * d;
  }
  EXPECT_EQ(error, sum);
}

}  // namespace fairway::quantize
