// Tests of the rotary embedding: both layouts against Hugging Face, the angles, and invariance of scores.
#include "kernels/rope/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "common/compare.h"
#include "fairway/error.h"

namespace fairway::kernels {
namespace {

using test::compare;

constexpr test::Bound kBound{.absolute = 8 * 8 * 0x1p-24};  // inputs up to 8, two products and a table entry each

// transformers 5.23, apply_rotary_pos_emb and apply_rotary_pos_emb_interleave in double: x = 1..8, dim 8, theta 10000,
// position 7.
TEST(Rope, BothLayoutsAgreeWithHuggingFace) {
  RopeTable table(8, 10000.0);
  table.grow(8);
  std::vector<float> halves{1, 2, 3, 4, 5, 6, 7, 8}, interleaved = halves;
  apply_rope(halves.data(), table, 7, RopeLayout::kHalves);
  apply_rope(interleaved.data(), table, 7, RopeLayout::kInterleaved);
  EXPECT_EQ(compare(std::vector<float>{-2.53103074f, -2.33562175f, 2.50305307f, 3.94390246f, 4.42649787f, 5.8774885f,
                                       7.19268554f, 8.02780377f},
                    halves, 8, kBound),
            "");
  EXPECT_EQ(compare(std::vector<float>{-0.560070943f, -0.282344187f, 4.56809792f, 6.94382896f, 2.16479111f, 4.99202181f,
                                       6.33502024f, 8.0488036f},
                    interleaved, 8, kBound),
            "");
}

TEST(Rope, PositionZeroKeepsHalvesAndReordersPairs) {
  RopeTable table(4, 10000.0);
  table.grow(1);
  std::vector<float> x{1, 2, 3, 4};
  apply_rope(x.data(), table, 0, RopeLayout::kHalves);
  EXPECT_EQ(x, (std::vector<float>{1, 2, 3, 4}));
  apply_rope(x.data(), table, 0, RopeLayout::kInterleaved);
  EXPECT_EQ(x, (std::vector<float>{1, 3, 2, 4}));
}

// Far positions: the angle is formed in double, so the error stays that of one rounding.
TEST(Rope, AnglesOfFarPositions) {
  RopeTable table(8, 1e6);
  table.grow(202752);
  for (const int position : {1, 4095, 202751}) {
    for (const int i : {0, 1, 2, 3}) {
      const double angle = position * std::pow(1e6, -2.0 * i / 8);
      EXPECT_NEAR(table.cos_row(position)[i], std::cos(angle), 1e-7) << position << " " << i;
      EXPECT_NEAR(table.sin_row(position)[i], std::sin(angle), 1e-7) << position << " " << i;
    }
  }
}

TEST(Rope, GrowingInStepsGivesTheSameTable) {
  RopeTable steps(16, 10000.0), once(16, 10000.0);
  for (const int size : {1, 2, 7, 3, 40}) steps.grow(size);
  once.grow(40);
  for (int position = 0; position < 40; ++position) {
    for (int i = 0; i < 8; ++i) {
      EXPECT_EQ(steps.cos_row(position)[i], once.cos_row(position)[i]);
      EXPECT_EQ(steps.sin_row(position)[i], once.sin_row(position)[i]);
    }
  }
}

// The product of a rotated query and key depends on the distance of their positions only, and not on the layout.
TEST(Rope, ScoresDependOnDistance) {
  const unsigned seed = 31;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> q(32), k(32);
  for (float& v : q) v = normal(random);
  for (float& v : k) v = normal(random);
  RopeTable table(32, 10000.0);
  table.grow(200);
  for (const RopeLayout layout : {RopeLayout::kHalves, RopeLayout::kInterleaved}) {
    const auto score = [&](int position_q, int position_k) {
      std::vector<float> a = q, b = k;
      apply_rope(a.data(), table, position_q, layout);
      apply_rope(b.data(), table, position_k, layout);
      return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
    };
    EXPECT_NEAR(score(5, 5), std::inner_product(q.begin(), q.end(), k.begin(), 0.0), 1e-4);
    EXPECT_NEAR(score(30, 13), score(199, 182), 1e-4);
    EXPECT_GT(std::fabs(score(30, 13) - score(30, 14)), 1e-2);
  }
}

TEST(Rope, ImpossibleSizesAreErrors) {
  for (const int dim : {0, -2, 7, 1 << 20}) EXPECT_THROW(RopeTable(dim, 10000.0), Error) << dim;
  EXPECT_THROW(RopeTable(64, 0.0), Error);
  EXPECT_THROW(RopeTable(64, NAN), Error);
}

}  // namespace
}  // namespace fairway::kernels
