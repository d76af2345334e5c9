// Moments: sums of weighted outer products, whatever the block, and rows that must stay out.
#include "quantize/moments.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "quantize/core_fixture.h"

namespace fairway::quantize {
namespace {

TEST(Moments, SumOfWeightedOuterProducts) {
  test::Machine machine;
  constexpr int kIn = 100, kRows = 700;  // padded to 128; more than one block of rows
  const std::vector<float> x = test::correlated_rows(kRows, kIn, 1);
  std::vector<std::int32_t> rows;
  std::vector<float> weights;
  for (int r = 0; r < kRows; r += 1 + r % 2) {
    rows.push_back(kRows - 1 - r);
    weights.push_back(0.25f + 0.5f * static_cast<float>(r % 3));
  }
  Moments moments(kIn);
  moments.add(x.data(), kIn, rows.data(), weights.data(), static_cast<int>(rows.size()), machine.context);
  EXPECT_EQ(moments.dim(), 128);
  EXPECT_EQ(moments.rows(), static_cast<std::int64_t>(rows.size()));
  double weight = 0, largest = 0;
  for (const float w : weights) weight += w;
  EXPECT_NEAR(moments.weight(), weight, 1e-6 * weight);
  for (int i = 0; i < kIn; ++i) largest = std::max(largest, static_cast<double>(moments.sum()[i * 128 + i]));
  for (int i = 0; i < 128; ++i) {
    for (int j = 0; j < 128; ++j) {
      double sum = 0;
      for (std::size_t r = 0; r < rows.size() && i < kIn && j < kIn; ++r) {
        sum += static_cast<double>(weights[r]) * x[rows[r] * kIn + i] * x[rows[r] * kIn + j];
      }
      EXPECT_NEAR(moments.sum()[static_cast<std::size_t>(i) * 128 + j], sum, 1e-5 * largest) << i << ", " << j;
    }
  }
}

TEST(Moments, RowsThatAreNotFiniteAreDroppedAndCounted) {
  test::Machine machine;
  std::vector<float> x = test::correlated_rows(5, 128, 2);
  Moments clean(128), dirty(128);
  clean.add(x.data(), 128, nullptr, nullptr, 3, machine.context);
  x[3 * 128 + 7] = std::numeric_limits<float>::quiet_NaN();
  x[4 * 128] = 1e20f;
  dirty.add(x.data(), 128, nullptr, nullptr, 5, machine.context);
  EXPECT_EQ(dirty.dropped(), 2);
  EXPECT_EQ(dirty.rows(), 3);
  EXPECT_EQ(dirty.sum(), clean.sum());
}

TEST(Moments, ThreadsDoNotChangeABit) {
  test::Machine one(1), three(3);
  const std::vector<float> x = test::correlated_rows(600, 256, 3);
  Moments a(256), b(256);
  a.add(x.data(), 256, nullptr, nullptr, 600, one.context);
  b.add(x.data(), 256, nullptr, nullptr, 600, three.context);
  EXPECT_EQ(a.sum(), b.sum());
}

}  // namespace
}  // namespace fairway::quantize
