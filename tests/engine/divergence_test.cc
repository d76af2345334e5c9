// The divergence of one row of logits from another: values written out, extremes, and what is not finite.
#include "engine/divergence.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace fairway {
namespace {

TEST(Divergence, TwoClasses) {
  const std::vector<float> even{3, 3}, uneven{std::log(3.0f), 0};
  engine::ReferenceRow row;
  row.reset(even);
  EXPECT_DOUBLE_EQ(row.logprob(1), std::log(0.5));
  const auto difference = row.compare(uneven, 1);
  EXPECT_NEAR(difference.divergence, 0.5 * std::log(0.5 / 0.75) + 0.5 * std::log(0.5 / 0.25), 1e-7);
  EXPECT_NEAR(difference.logprob, std::log(0.25), 1e-7);
  EXPECT_TRUE(difference.same_top);  // of equal logits the first counts
  row.reset(uneven);
  EXPECT_NEAR(row.compare(even, 0).divergence, 0.75 * std::log(0.75 / 0.5) + 0.25 * std::log(0.25 / 0.5), 1e-7);
}

TEST(Divergence, LargeLogitsStayFinite) {
  const std::vector<float> left{1e4f, 0}, right{0, 1e4f};
  engine::ReferenceRow row;
  row.reset(left);
  EXPECT_DOUBLE_EQ(row.compare(right, 0).divergence, 1e4);
  EXPECT_FALSE(row.compare(right, 0).same_top);
}

TEST(Divergence, WhatIsNotFiniteIsSeenInEitherRow) {
  const std::vector<float> good{1, 2, 3};
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    for (std::size_t at = 0; at < 3; ++at) {
      std::vector<float> damaged = good;
      damaged[at] = bad;
      engine::ReferenceRow row;
      row.reset(good);
      EXPECT_TRUE(std::isnan(row.compare(damaged, 1).divergence)) << bad << " at " << at;
      EXPECT_FALSE(std::isfinite(row.compare(damaged, 1).logprob)) << bad << " at " << at;
      row.reset(damaged);
      EXPECT_FALSE(std::isfinite(row.logprob(1))) << bad << " at " << at;
      EXPECT_TRUE(std::isnan(row.compare(good, 1).divergence)) << bad << " at " << at;
    }
  }
}

}  // namespace
}  // namespace fairway
