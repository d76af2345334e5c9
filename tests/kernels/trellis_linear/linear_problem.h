// What the tests of the rows of trellis_linear share: inputs, a call with poisoned outputs, bounds.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <vector>

#include "backend/cpu/features.h"
#include "common/compare.h"
#include "kernels/trellis_band/trellis_fixture.h"
#include "kernels/trellis_linear/trellis_linear.h"

namespace fairway::kernels {

constexpr codec::Codebook kCodebooks[] = {codec::Codebook::k3inst, codec::Codebook::kMcg, codec::Codebook::kMul1};

inline std::vector<const TrellisLinearRow*> rows_that_read(codec::Codebook codebook) {
  std::vector<const TrellisLinearRow*> rows;
  for (const TrellisLinearRow& row : trellis_linear_rows()) {
    const bool runs = can_run(row.info, backend::cpu_info().features);
    if (runs && (row.info.codebooks & codebook_bit(codebook)) != 0) rows.push_back(&row);
  }
  return rows;
}

// y[m][out + 3] with poison in the gap.
inline std::vector<float> run(const TrellisLinearRow& row, const test::RandomTrellis& weights,
                              const std::vector<float>& x, int m, int threads, const Tile& tile) {
  backend::ThreadPool pool(threads);
  backend::Workspace workspace;
  KernelContext context{pool, workspace};
  const std::int64_t ldy = weights.out_exact() + 3;
  std::vector<float> y = test::poison(static_cast<std::size_t>(m * ldy));
  row.fn(
      {&weights.matrix(), x.data(), weights.in_exact() + 5, weights.in_exact(), y.data(), ldy, weights.out_exact(), m},
      tile, context);
  std::vector<float> packed;
  for (std::size_t r = 0; r < static_cast<std::size_t>(m); ++r) {
    const auto line = std::span(y).subspan(r * static_cast<std::size_t>(ldy), static_cast<std::size_t>(ldy));
    EXPECT_TRUE(test::still_poison(line.subspan(static_cast<std::size_t>(weights.out_exact())))) << row.info.id;
    packed.insert(packed.end(), line.begin(), line.begin() + weights.out_exact());
  }
  return packed;
}

inline std::vector<float> run(const TrellisLinearRow& row, const test::RandomTrellis& weights,
                              const std::vector<float>& x, int m, int threads) {
  return run(row, weights, x, m, threads, row.info.tile);
}

// Columns of x beyond the exact size are NaN: they must not be read as values.
inline std::vector<float> random_rows(std::mt19937& random, int m, int in) {
  std::vector<float> x = test::poison(static_cast<std::size_t>(m * (in + 5)));
  for (int r = 0; r < m; ++r) {
    const auto line = test::random_normal(random, static_cast<std::size_t>(in));
    std::copy(line.begin(), line.end(), x.begin() + r * (in + 5));
  }
  return x;
}

inline test::Bound bound_of(const KernelRow& row, int k) {
  return {.row_relative = test::product_error(row, k)};
}

// Same bits for consistent rows; others stay within their bound, so within twice of it of each other.
inline void expect_same(const KernelRow& row, std::span<const float> expected, std::span<const float> actual, int in,
                        int out) {
  if (row.numerics == Numerics::kConsistent) {
    EXPECT_EQ(test::compare_exact(expected, actual), "");
  } else {
    EXPECT_EQ(test::compare(expected, actual, out, {.row_relative = 2 * bound_of(row, in).row_relative}), "");
  }
}

}  // namespace fairway::kernels
