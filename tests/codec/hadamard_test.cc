// The 128-point Hadamard transform against its definition.
#include "codec/hadamard.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

namespace fairway::codec {
namespace {

constexpr unsigned kN = kHadamardDim;

TEST(Hadamard, ColumnsAreTheDefinition) {
  for (unsigned j = 0; j < kN; ++j) {
    std::vector<float> x(kN, 0.0f);
    x[j] = 1.0f;
    hadamard128(x.data());
    for (unsigned i = 0; i < kN; ++i) {
      EXPECT_EQ(x[i], std::popcount(i & j) & 1 ? -kHadamardScale : kHadamardScale) << i << " " << j;
    }
  }
}

TEST(Hadamard, IsOrthonormalAndItsOwnInverse) {
  const unsigned seed = 5;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(kN);
  for (float& v : x) v = normal(random);
  std::vector<float> y = x;
  hadamard128(y.data());
  double before = 0, after = 0;
  for (unsigned i = 0; i < kN; ++i) {
    before += static_cast<double>(x[i]) * x[i];
    after += static_cast<double>(y[i]) * y[i];
  }
  // Seven additions and one multiplication per element, each within half an ulp.
  const double epsilon = std::ldexp(1.0, -24);
  EXPECT_NEAR(after, before, 2 * 8 * epsilon * before);
  hadamard128(y.data());
  for (unsigned i = 0; i < kN; ++i) EXPECT_NEAR(y[i], x[i], 16 * epsilon * std::sqrt(before)) << i;
}

}  // namespace
}  // namespace fairway::codec
