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
#include "quantize/tile_coder.h"

namespace fairway::quantize {

using codec::Codebook;
using Tile = std::array<float, codec::kTileWeights>;
using States = std::array<std::uint16_t, codec::kTileWeights>;

inline constexpr Codebook kCodebooks[] = {Codebook::k3inst, Codebook::kMcg, Codebook::kMul1};

// Deviation to scale unit Gaussian weights to, and the mean squared error per variance there, measured by an
// independent program with the two-pass way of closing (40 tiles).
struct Gauss {
  double sigma, error;
};
inline constexpr Gauss kGauss[3][8] = {
    {{1.44, 0.2676},
     {1.24, 0.06877},
     {1.19, 0.01754},
     {1.14, 0.004487},
     {1.19, 0.001154},
     {1.09, 0.000302},
     {1.09, 0.0000778},
     {1.09, 0.0000204}},
    {{1.44, 0.2650},
     {1.24, 0.06795},
     {1.19, 0.01716},
     {1.14, 0.004427},
     {1.09, 0.001152},
     {1.14, 0.000298},
     {1.09, 0.0000780},
     {1.09, 0.0000208}},
    {{1.12, 0.2700},
     {0.96, 0.06777},
     {0.96, 0.01725},
     {0.92, 0.004385},
     {0.96, 0.001106},
     {0.92, 0.000284},
     {0.88, 0.0000755},
     {0.88, 0.0000193}},
};

inline const Gauss& gauss(Codebook codebook, int bits) {
  return kGauss[static_cast<int>(codebook)][bits - 1];
}

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
