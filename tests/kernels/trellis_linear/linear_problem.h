// What the tests of the rows of trellis_linear share: inputs, a call with poisoned outputs, bounds.
#pragma once

#include <gtest/gtest.h>

#include <span>
#include <utility>
#include <vector>

#include "backend/cpu/features.h"
#include "common/compare.h"
#include "kernels/trellis_band/trellis_fixture.h"
#include "kernels/trellis_linear/trellis_linear.h"
#include "kernels/verify/linear_problem.h"

namespace fairway::kernels {

using verify::random_rows;

constexpr codec::Codebook kCodebooks[] = {codec::Codebook::k3inst, codec::Codebook::kMcg, codec::Codebook::kMul1};

inline std::vector<const TrellisLinearRow*> rows_that_read(codec::Codebook codebook) {
  std::vector<const TrellisLinearRow*> rows;
  for (const TrellisLinearRow& row : trellis_linear_rows()) {
    const bool runs = can_run(row.info, backend::cpu_info().features);
    if (runs && (row.info.codebooks & codebook_bit(codebook)) != 0) rows.push_back(&row);
  }
  return rows;
}

// y[m][out], with the gap between its rows checked.
inline std::vector<float> run(const TrellisLinearRow& row, const test::RandomTrellis& weights,
                              const std::vector<float>& x, int m, int threads, const Tile& tile) {
  verify::LinearResult result = verify::run_linear(row, weights, x, m, threads, tile);
  EXPECT_TRUE(result.gap_intact) << row.info.id;
  return std::move(result.y);
}

inline std::vector<float> run(const TrellisLinearRow& row, const test::RandomTrellis& weights,
                              const std::vector<float>& x, int m, int threads) {
  return run(row, weights, x, m, threads, row.info.tile);
}

inline test::Bound bound_of(const KernelRow& row, int k) {
  return verify::linear_bound(row, k);
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
