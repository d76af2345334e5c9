// Block LDL: the factors multiply to the matrix, and feedback with them leaves rounding errors alone.
#include "quantize/block_ldl.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fairway/error.h"
#include "quantize/core_fixture.h"

namespace fairway::quantize {
namespace {

std::vector<double> hessian(int dim, std::uint64_t seed) {
  test::Machine machine;
  const std::vector<float> x = test::correlated_rows(3 * dim, dim, seed);
  Moments moments(dim);
  moments.add(x.data(), dim, nullptr, nullptr, 3 * dim, machine.context);
  return {moments.sum().begin(), moments.sum().end()};
}

// tr(E^T H E) of one output's errors.
double energy(const std::vector<double>& h, const std::vector<double>& e) {
  double sum = 0;
  for (std::size_t i = 0; i < e.size(); ++i) {
    for (std::size_t j = 0; j < e.size(); ++j) sum += e[i] * h[i * e.size() + j] * e[j];
  }
  return sum;
}

TEST(BlockLdl, UnitVectorsThroughTheInverseHaveTheEnergyOfD) {
  test::Machine machine;
  constexpr int kDim = 128;
  const std::vector<double> h = hessian(kDim, 1);
  const BlockLdl ldl = block_ldl(h, kDim, 0, machine.context);
  double trace = 0;
  for (int strip = 0; strip < kDim / 16; ++strip) {
    for (int row = 16 * strip; row < 16 * strip + 16; ++row) {
      // L^T E = unit vector: solve from the last strip to the first, as coding does.
      std::vector<double> e(kDim);
      for (int i = kDim - 1; i >= 0; --i) {
        e[i] = i == row ? 1 : 0;
        for (int k = (i / 16 + 1) * 16; k < kDim; ++k) e[i] -= static_cast<double>(ldl.lower[k * kDim + i]) * e[k];
      }
      EXPECT_NEAR(energy(h, e), ldl.diagonal[row], 1e-4 * ldl.diagonal[row] + 1e-6 * ldl.trace / kDim) << row;
      trace += ldl.diagonal[row];
    }
  }
  EXPECT_NEAR(ldl.trace, trace, 1e-9 * trace);
  for (int i = 0; i < kDim; ++i) {
    for (int j = i / 16 * 16; j < kDim; ++j) EXPECT_EQ(ldl.lower[i * kDim + j], 0) << i << ", " << j;
  }
}

TEST(BlockLdl, DampingRescuesASingularMatrix) {
  test::Machine machine;
  std::vector<double> h(64 * 64, 1.0);  // rank 1
  const BlockLdl ldl = block_ldl(h, 64, 0, machine.context);
  EXPECT_GT(ldl.trace, 0);
  EXPECT_TRUE(std::isfinite(ldl.trace));
  h[5] = h[5 * 64] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(block_ldl(h, 64, 0.01, machine.context), Error);
}

TEST(BlockLdl, ThreadsDoNotChangeABit) {
  test::Machine one(1), three(3);
  const std::vector<double> h = hessian(256, 2);
  const BlockLdl a = block_ldl(h, 256, 0.01, one.context), b = block_ldl(h, 256, 0.01, three.context);
  EXPECT_EQ(a.lower, b.lower);
  EXPECT_EQ(a.diagonal, b.diagonal);
}

}  // namespace
}  // namespace fairway::quantize
