// How well the tile coder codes: against figures of an independent program, and against the proven optimum.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "quantize/exact_tile.h"
#include "quantize/gaussian_tiles.h"
#include "quantize/tile_coder.h"

namespace fairway::quantize {
namespace {

// z with P(normal < z) = p.
double normal_quantile(double p) {
  double low = -8, high = 8;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (std::erfc(-middle / std::sqrt(2.0)) / 2 < p ? low : high) = middle;
  }
  return low;
}

// Quantiles in random order: without the luck of a sample, whose few largest values decide the error at many bits.
TEST(TileCoderQuality, CodesGaussianWeightsAsWellAsTheFormatCan) {
  constexpr std::size_t kTiles = 4;
  std::vector<double> weights(kTiles * codec::kTileWeights);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = normal_quantile((static_cast<double>(i) + 0.5) / static_cast<double>(weights.size()));
  }
  for (const Codebook codebook : kCodebooks) {
    for (int bits = 1; bits <= 8; ++bits) {
      std::mt19937_64 random(4);
      std::shuffle(weights.begin(), weights.end(), random);
      TileCoder coder(codebook, bits);
      double sum = 0, squares = 0;
      for (std::size_t t = 0; t < kTiles; ++t) {
        Tile tile;
        for (std::size_t p = 0; p < tile.size(); ++p) {
          tile[p] = static_cast<float>(quantize::code_profile(codebook, bits).gain * weights[t * tile.size() + p]);
          squares += double{tile[p]} * double{tile[p]};
        }
        States states;
        sum += coder.encode(tile, states);
      }
      EXPECT_NEAR(sum / squares / quantize::code_profile(codebook, bits).mse, 1, 0.05)
          << name(codebook, bits, coder.isa());
    }
  }
}

// One tile in ten is not coded in the best way, some of these are worse by 1 or 2 %, so the mean that is asked for is
// one over all widths; tile_coder.cc has those of single widths over more tiles.
TEST(TileCoderQuality, IsNearTheOptimumThatBranchAndBoundProves) {
  double ratios = 0;
  int tiles = 0;
  for (int bits = 1; bits <= 8; ++bits) {
    std::mt19937_64 random(5);
    TileCoder coder(Codebook::kMul1, bits);
    for (int t = 0; t < (bits == 1 ? 1 : 3); ++t) {
      const Tile tile = gaussian_tile(random, quantize::code_profile(Codebook::kMul1, bits).gain);
      States states;
      const double error = coder.encode(tile, states);
      States best = states;
      const double least = std::make_unique<ExactTile>(tile, Codebook::kMul1, bits)->solve(best);
      expect_valid(tile, best, least, Codebook::kMul1, bits);
      EXPECT_GE(error, least) << bits << " bits";
      EXPECT_LE(error, 1.03 * least) << bits << " bits";
      ratios += error / least;
      ++tiles;
    }
  }
  EXPECT_LE(ratios / tiles, 1.002);
}

TEST(TileCoderQuality, MoreEffortIsNotWorse) {
  double sums[3] = {};
  std::mt19937_64 random(7);
  for (int t = 0; t < 8; ++t) {
    const Tile tile = gaussian_tile(random, 0.96);
    for (const CoderEffort effort : {CoderEffort::kQuick, CoderEffort::kStandard, CoderEffort::kThorough}) {
      TileCoder coder(Codebook::kMul1, 3, CoderIsa::kBest, effort);
      States states;
      sums[static_cast<int>(effort)] += coder.encode(tile, states);
    }
  }
  EXPECT_LE(sums[1], sums[0] * 1.0005);
  EXPECT_LE(sums[2], sums[1] * 1.0005);
}

}  // namespace
}  // namespace fairway::quantize
