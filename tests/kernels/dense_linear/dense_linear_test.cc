// Tests of dense_linear and dense_dot: exact sums on whole numbers, a rounding bound on Gaussian inputs, edges of every
// tile shape, nothing touched outside the operands, and the same bits for every grouping of rows, outputs and threads.
#include "kernels/dense_linear/dense_linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "common/compare.h"
#include "kernels/common/dense_fixture.h"

namespace fairway::kernels {
namespace {

using namespace fairway::test;

struct Problem {
  int m, in, out;
  std::int64_t ldx, ldy;
  std::vector<float> x, w, bias;
  StoredMatrix matrix;

  Problem(std::mt19937& random, int m_, int in_, int out_, DenseType type, bool with_bias, bool whole)
      : m(m_),
        in(in_),
        out(out_),
        ldx(in_ + 3),
        ldy(out_ + 5),
        x(whole ? whole_numbers(random, static_cast<std::size_t>(m_ * (in_ + 3)), 8)
                : gaussian(random, static_cast<std::size_t>(m_ * (in_ + 3)))),
        w(whole ? whole_numbers(random, static_cast<std::size_t>(in_ * out_), 8)
                : gaussian(random, static_cast<std::size_t>(in_ * out_))),
        bias(whole ? whole_numbers(random, static_cast<std::size_t>(out_), 8)
                   : gaussian(random, static_cast<std::size_t>(out_))),
        matrix(w, type, in_, out_, with_bias ? bias.data() : nullptr) {
    if (m > 0) x.resize(static_cast<std::size_t>((m - 1) * ldx + in));  // no padding behind the last row
    x.shrink_to_fit();
  }

  // y with its padding columns, poisoned before the call.
  std::vector<float> run(DenseLinearFn fn, int threads) const {
    Machine machine(threads);
    std::vector<float> y(static_cast<std::size_t>(m * ldy), kPoison);
    fn({&matrix.view(), x.data(), ldx, y.data(), ldy, m}, machine.context);
    return y;
  }

  // Checks that the padding of y is untouched and returns the columns that belong to it.
  std::vector<float> result(const std::vector<float>& y) const {
    std::vector<float> values;
    for (int i = 0; i < m; ++i) {
      for (int n = 0; n < ldy; ++n) {
        const float v = y[static_cast<std::size_t>(i * ldy + n)];
        if (n < out) {
          values.push_back(v);
        } else {
          EXPECT_TRUE(std::isnan(v)) << "padding of row " << i << " was written";
        }
      }
    }
    return values;
  }
};

const DenseLinearRow& row_named(const std::string& id) {
  for (const DenseLinearRow& row : dense_linear_rows()) {
    if (row.info.id == id) return row;
  }
  throw std::out_of_range(id);
}

TEST(DenseLinear, RowsDescribeThemselves) {
  std::vector<std::string> ids;
  for (const DenseLinearRow& row : dense_linear_rows()) {
    ids.emplace_back(row.info.id);
    EXPECT_EQ(row.info.weights, WeightKind::kDense);
    EXPECT_EQ(row.info.codebooks, 0);
  }
  EXPECT_EQ(ids,
            (std::vector<std::string>{"cpu_ref/dense_linear", "cpu_avx2/dense_linear", "cpu_avx512/dense_linear"}));
}

TEST(DenseLinear, ReferenceOnASmallExample) {
  const std::vector<float> w{1, 2, 3, -1, 0.5f, 4}, x{1, 10, 100, 2, 4, 8}, bias{1000, -1};
  for (const DenseType type : kDenseTypes) {
    const StoredMatrix matrix(w, type, 3, 2, bias.data());
    Machine machine(1);
    std::vector<float> y(4, kPoison);
    row_named("cpu_ref/dense_linear").fn({&matrix.view(), x.data(), 3, y.data(), 2, 2}, machine.context);
    EXPECT_EQ(compare_exact(std::vector<float>{1321, 403, 1034, 31}, y), "");
  }
}

// Sums of |products| <= 64 over at most 2100 terms stay below 2^24: every order of additions is exact.
TEST(DenseLinear, WholeNumbersAreExactAtEveryTileEdge) {
  const unsigned seed = 7;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (const DenseLinearRow& row : dense_linear_rows()) {
    if (!runs_here(row.info)) continue;
    for (const DenseType type : kDenseTypes) {
      for (const int m : {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 17, 33}) {
        for (const auto& [in, out] : {std::pair{1, 1}, {7, 3}, {15, 2}, {16, 49}, {17, 97}, {31, 8}, {33, 11}}) {
          const Problem problem(random, m, in, out, type, m % 2 == 0, true);
          EXPECT_EQ(compare_exact(problem.result(problem.run(row_named("cpu_ref/dense_linear").fn, 1)),
                                  problem.result(problem.run(row.fn, 2))),
                    "")
              << row.info.id << " m " << m << " in " << in << " out " << out;
        }
      }
      const Problem deep(random, 9, 2100, 5, type, true, true);  // more than two blocks of K
      EXPECT_EQ(compare_exact(deep.result(deep.run(row_named("cpu_ref/dense_linear").fn, 1)),
                              deep.result(deep.run(row.fn, 1))),
                "")
          << row.info.id;
    }
  }
}

// One lane adds at most ceil(in / 8) products and the lanes, blocks and bias at most 8 more sums, each with relative
// error kEpsilon of a partial sum that Cauchy-Schwarz bounds by |x| |w| + |bias|.
TEST(DenseLinear, GaussianWithinTheRoundingBound) {
  const unsigned seed = 11;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (const DenseLinearRow& row : dense_linear_rows()) {
    if (!runs_here(row.info)) continue;
    for (const DenseType type : kDenseTypes) {
      for (const int in : {64, 300, 1500}) {
        const Problem problem(random, 13, in, 70, type, true, false);
        const double magnitude = 1.01 * largest_row_norm(problem.x, static_cast<std::size_t>(problem.ldx)) *
                                     largest_row_norm(problem.w, static_cast<std::size_t>(in)) +
                                 8.0;
        const Bound bound{.absolute = (in / 8 + 9) * kEpsilon * magnitude};
        EXPECT_EQ(compare(problem.result(problem.run(row_named("cpu_ref/dense_linear").fn, 1)),
                          problem.result(problem.run(row.fn, 2)), problem.out, bound),
                  "")
            << row.info.id << " in " << in;
      }
    }
  }
}

TEST(DenseLinear, SameBitsForAnyThreadsAndAnyGroupingOfRows) {
  const unsigned seed = 13;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (const DenseLinearRow& row : dense_linear_rows()) {
    if (!runs_here(row.info) || row.info.backend == Backend::kCpuRef) continue;
    const Problem problem(random, 70, 1100, 600, DenseType::kBf16, true, false);
    const std::vector<float> all = problem.run(row.fn, 1);
    for (const int threads : {2, 3}) EXPECT_EQ(compare_exact(all, problem.run(row.fn, threads)), "") << threads;
    Machine machine(2);
    std::vector<float> y(all.size(), kPoison);
    for (int i = 0, step = 1; i < problem.m; i += step, step = step % 9 + 1) {
      const int rows = std::min(step, problem.m - i);
      row.fn({&problem.matrix.view(), problem.x.data() + i * problem.ldx, problem.ldx, y.data() + i * problem.ldy,
              problem.ldy, rows},
             machine.context);
    }
    EXPECT_EQ(compare_exact(all, y), "") << row.info.id;
  }
}

TEST(DenseDot, WritesOnlyItsRangeOfOutputs) {
  const unsigned seed = 17;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const Problem problem(random, 6, 40, 30, DenseType::kF16, true, true);
  const std::vector<float> expected = problem.run(row_named("cpu_ref/dense_linear").fn, 1);
  std::vector<std::pair<std::string, DenseDotFn>> functions{{"ref", dense_dot_ref}};
  if (runs_here(row_named("cpu_avx2/dense_linear").info)) functions.emplace_back("avx2", dense_dot_avx2);
  if (runs_here(row_named("cpu_avx512/dense_linear").info)) functions.emplace_back("avx512", dense_dot_avx512);
  for (const auto& [name, fn] : functions) {
    for (const auto& [begin, end] : {std::pair{0, 30}, {5, 5}, {29, 30}, {3, 20}}) {
      std::vector<float> y(expected.size(), kPoison);
      fn(problem.matrix.view(), begin, end, problem.x.data(), problem.ldx, problem.m, y.data(), problem.ldy);
      for (int i = 0; i < problem.m; ++i) {
        for (int n = 0; n < problem.ldy; ++n) {
          const std::size_t at = static_cast<std::size_t>(i * problem.ldy + n);
          if (n >= begin && n < end) {
            ASSERT_EQ(y[at], expected[at]) << name << " " << i << "," << n;
          } else {
            ASSERT_TRUE(std::isnan(y[at])) << name << " wrote " << i << "," << n;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace fairway::kernels
