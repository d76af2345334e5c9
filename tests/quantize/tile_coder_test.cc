// The tile coder: closed paths, the error it reports, equal results of all instruction sets, and how near the optimum.
#include "quantize/tile_coder.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>
#include <vector>

#include "codec/half.h"
#include "codec/packing.h"
#include "fairway/error.h"
#include "quantize/gaussian_tiles.h"

namespace fairway::quantize {
namespace {

double error_of(const Tile& tile, const States& states, Codebook codebook) {
  double sum = 0;
  for (std::size_t p = 0; p < tile.size(); ++p) {
    const double d = double{codec::float_from_half(codec::codebook_table(codebook)[states[p]])} - double{tile[p]};
    sum += d * d;
  }
  return sum;
}

TEST(TileCoder, ClosedPathsAndTheirErrorForEveryWidthCodebookAndInstructionSet) {
  std::mt19937_64 random(1);
  for (const CoderIsa isa : available_coder_isas()) {
    if (isa == CoderIsa::kScalar) continue;  // compared below
    for (const Codebook codebook : kCodebooks) {
      for (int bits = 1; bits <= 8; ++bits) {
        SCOPED_TRACE(name(codebook, bits, isa));
        TileCoder coder(codebook, bits, isa);
        EXPECT_EQ(coder.isa(), isa);
        const Tile tile = gaussian_tile(random, quantize::code_profile(codebook, bits).gain);
        States states;
        const double error = coder.encode(tile, states);
        expect_valid(tile, states, error, codebook, bits);
      }
    }
  }
}

// All of them, the scalar one too: the same states to the last bit, also on a coder that has coded other tiles before.
TEST(TileCoder, InstructionSetsAgree) {
  std::mt19937_64 random(2);
  for (int bits = 1; bits <= 8; ++bits) {
    const Codebook codebook = kCodebooks[bits % 3];
    const Tile tile = gaussian_tile(random, quantize::code_profile(codebook, bits).gain);
    States expected;
    const double error = TileCoder(codebook, bits, CoderIsa::kScalar, CoderEffort::kQuick).encode(tile, expected);
    for (const CoderIsa isa : available_coder_isas()) {
      if (isa == CoderIsa::kScalar) continue;
      SCOPED_TRACE(name(codebook, bits, isa));
      TileCoder coder(codebook, bits, isa, CoderEffort::kQuick);
      States states;
      coder.encode(gaussian_tile(random, 1), states);
      EXPECT_EQ(coder.encode(tile, states), error);
      EXPECT_EQ(states, expected);
    }
  }
}

TEST(TileCoder, VectorInstructionSetsAgreeOnManyTiles) {
  std::mt19937_64 random(3);
  for (const Codebook codebook : kCodebooks) {
    for (int bits = 1; bits <= 8; ++bits) {
      const Tile tile = gaussian_tile(
          random, 3 * quantize::code_profile(codebook, bits).gain);  // with targets outside of the codebook
      States expected{};
      double error = -1;
      for (const CoderIsa isa : available_coder_isas()) {
        if (isa == CoderIsa::kScalar) continue;
        SCOPED_TRACE(name(codebook, bits, isa));
        TileCoder coder(codebook, bits, isa);
        States states;
        const double sum = coder.encode(tile, states);
        expect_valid(tile, states, sum, codebook, bits);
        if (error >= 0) {
          EXPECT_EQ(sum, error);
          EXPECT_EQ(states, expected);
        }
        error = sum;
        expected = states;
      }
    }
  }
}

TEST(TileCoder, ConstantZeroAndHugeTiles) {
  for (const float level : {0.0f, 0.7f, -2.5f, 3.9f, 50.0f, -1e6f, 1e30f}) {
    for (int bits = 1; bits <= 8; ++bits) {
      SCOPED_TRACE(fmt::format("{} at {} bits", level, bits));
      TileCoder coder(Codebook::kMul1, bits);
      Tile tile;
      tile.fill(level);
      States states;
      const double error = coder.encode(tile, states);
      expect_valid(tile, states, error, Codebook::kMul1, bits);
      // No worse than the best state that is its own successor, if one weight's value is worth repeating.
      const int ones = 0xFFFF;
      States constant;
      for (const int state : {0, ones}) {
        constant.fill(static_cast<std::uint16_t>(state));
        EXPECT_LE(error, error_of(tile, constant, Codebook::kMul1) * (1 + 1e-6));
      }
    }
  }
}

// One target far outside must not make the coder careless about the others.
TEST(TileCoder, OneHugeTargetLeavesTheOthersWell) {
  std::mt19937_64 random(6);
  for (int bits = 1; bits <= 8; ++bits) {
    SCOPED_TRACE(bits);
    TileCoder coder(Codebook::kMul1, bits);
    const double sigma = quantize::code_profile(Codebook::kMul1, bits).gain;
    Tile tile = gaussian_tile(random, sigma);
    for (float& w : tile) w = std::clamp(w, -3.0f, 3.0f);
    States states;
    const double without = coder.encode(tile, states);
    tile[100] = 1e4f;
    const double with = coder.encode(tile, states);
    expect_valid(tile, states, with, Codebook::kMul1, bits);
    double others = 0;
    for (std::size_t p = 0; p < tile.size(); ++p) {
      const double d =
          double{codec::float_from_half(codec::codebook_table(Codebook::kMul1)[states[p]])} - double{tile[p]};
      if (p != 100) others += d * d;
    }
    EXPECT_LT(others, 1.5 * without);
    EXPECT_GT(codec::float_from_half(codec::codebook_table(Codebook::kMul1)[states[100]]), 3.0f);
  }
}

TEST(TileCoder, TwoThreadsWithACoderEachGiveTheSame) {
  std::mt19937_64 random(8);
  std::vector<Tile> tiles;
  tiles.reserve(4);
  for (int t = 0; t < 4; ++t) tiles.push_back(gaussian_tile(random, 0.96));
  std::vector<States> states[2];
  std::vector<std::thread> threads;
  threads.reserve(2);
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&, i] {
      TileCoder coder(Codebook::kMul1, 3);
      states[i].resize(tiles.size());
      for (std::size_t t = 0; t < tiles.size(); ++t) {
        const std::size_t at = i == 0 ? t : tiles.size() - 1 - t;  // in another order
        coder.encode(tiles[at], states[i][at]);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(states[0], states[1]);
}

TEST(TileCoder, RefusesWidthsThatDoNotExist) {
  for (const int bits : {-1, 0, 9}) {
    try {
      const TileCoder coder(Codebook::kMul1, bits);
      FAIL() << bits;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    }
  }
}

}  // namespace
}  // namespace fairway::quantize
