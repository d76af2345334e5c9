// Tests of grouped-query attention: every row against the reference, causality, and independence of threads.
#include "kernels/attention_gqa/attention_gqa.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "common/compare.h"
#include "kernels/common/dense_fixture.h"

namespace fairway::kernels {
namespace {

using namespace fairway::test;

struct Sizes {
  int heads, kv_heads, dim, start, m;
};

std::string name(const Sizes& s) {
  return "heads " + std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + " dim " + std::to_string(s.dim) +
         " start " + std::to_string(s.start) + " m " + std::to_string(s.m);
}

// Positions behind start + m hold NaN, so a kernel that looks ahead shows it.
struct Problem {
  Sizes s;
  std::int64_t cache_ld;
  std::vector<float> q, keys, values;
  float scale;

  Problem(std::mt19937& random, const Sizes& sizes)
      : s(sizes),
        cache_ld(sizes.kv_heads * sizes.dim + 5),
        q(gaussian(random, static_cast<std::size_t>(s.m * s.heads * s.dim))),
        keys(gaussian(random, static_cast<std::size_t>((s.start + s.m) * cache_ld))),
        values(gaussian(random, static_cast<std::size_t>((s.start + s.m) * cache_ld))),
        scale(1.0f / std::sqrt(static_cast<float>(s.dim))) {
    keys.insert(keys.end(), static_cast<std::size_t>(2 * cache_ld), kPoison);
    values.insert(values.end(), static_cast<std::size_t>(2 * cache_ld), kPoison);
  }

  std::vector<float> run(GqaFn fn, int threads) const {
    Machine machine(threads);
    std::vector<float> out(q.size(), kPoison);
    fn({q.data(), keys.data(), values.data(), cache_ld, s.heads, s.kv_heads, s.dim, s.start, s.m, scale, out.data()},
       machine.context);
    return out;
  }

  // First-order effect of rounding errors that add up like random ones (square root of their number), times 4. A score
  // is scale * q . k with components of k near N(0, 1), so its terms sum to about `score`; dim / 8 of them meet in a
  // lane. Its error shifts numerator and denominator of the probabilities; the sum over positions adds its own.
  Bound bound(const std::vector<float>& expected) const {
    const double score = scale * largest_row_norm(q, static_cast<std::size_t>(s.dim)) * 1.5;
    const double roundings = std::sqrt(s.dim / 8.0 + 8.0);
    return {.absolute =
                4 * kEpsilon * largest_magnitude(expected) * (2 * score * roundings + std::sqrt(s.start + s.m) + 4)};
  }
};

GqaFn reference() {
  return attention_gqa_rows()[0].fn;
}

TEST(AttentionGqa, RowsDescribeThemselves) {
  std::vector<std::string> ids;
  for (const GqaRow& row : attention_gqa_rows()) ids.emplace_back(row.info.id);
  EXPECT_EQ(ids, (std::vector<std::string>{"cpu_ref/gqa", "cpu_avx2/gqa", "cpu_avx512/gqa"}));
}

// Two positions, equal keys: the second row is the mean of the values and the first row the first value.
TEST(AttentionGqa, SmallExample) {
  const std::vector<float> q{1, 2, 3, 4}, keys{5, 6, 5, 6}, values{10, 20, 30, 60};
  for (const GqaRow& row : attention_gqa_rows()) {
    if (!runs_here(row.info)) continue;
    Machine machine(2);
    std::vector<float> out(4, kPoison);
    row.fn({q.data(), keys.data(), values.data(), 2, 1, 1, 2, 0, 2, 0.5f, out.data()}, machine.context);
    EXPECT_EQ(compare(std::vector<float>{10, 20, 20, 40}, out, 2, {.relative = 8 * kEpsilon}), "") << row.info.id;
  }
}

// Each query head reads its own key/value head: with constant values per head the output is that constant.
TEST(AttentionGqa, HeadsReadTheirGroup) {
  const unsigned seed = 21;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (const int m : {1, 9}) {
    Problem problem(random, {12, 3, 20, 40, m});
    for (int t = 0; t < 40 + m; ++t) {
      for (int c = 0; c < 60; ++c)
        problem.values[static_cast<std::size_t>(t * problem.cache_ld + c)] = static_cast<float>(1 + c / 20);
    }
    std::vector<float> expected;
    for (int i = 0; i < m; ++i) {
      for (int h = 0; h < 12; ++h) expected.insert(expected.end(), 20, static_cast<float>(1 + h / 4));
    }
    for (const GqaRow& row : attention_gqa_rows()) {
      if (!runs_here(row.info)) continue;
      EXPECT_EQ(compare(expected, problem.run(row.fn, 2), 20, {.relative = 64 * kEpsilon}), "") << row.info.id;
    }
  }
}

TEST(AttentionGqa, EveryRowAgreesWithTheReference) {
  const unsigned seed = 23;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const Sizes cases[] = {{1, 1, 1, 0, 1},     {2, 1, 7, 0, 3},    {4, 2, 32, 5, 1},    {8, 1, 64, 255, 1},
                         {8, 2, 128, 256, 2}, {6, 3, 33, 300, 5}, {32, 4, 128, 90, 4}, {4, 4, 48, 10, 17},
                         {8, 2, 64, 0, 100},  {4, 1, 40, 700, 9}, {2, 2, 16, 1200, 1}, {2, 2, 16, 1200, 21},
                         {15, 1, 24, 513, 1}, {16, 1, 24, 513, 1}};
  for (const Sizes& sizes : cases) {
    const Problem problem(random, sizes);
    const std::vector<float> expected = problem.run(reference(), 2);
    for (const GqaRow& row : attention_gqa_rows()) {
      if (!runs_here(row.info)) continue;
      EXPECT_EQ(compare(expected, problem.run(row.fn, 2), sizes.dim, problem.bound(expected)), "")
          << row.info.id << " " << name(sizes);
    }
  }
}

TEST(AttentionGqa, SameBitsForAnyNumberOfThreads) {
  const unsigned seed = 25;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (const Sizes& sizes :
       {Sizes{8, 2, 40, 300, 1}, Sizes{8, 2, 40, 20, 3}, Sizes{8, 2, 40, 20, 4}, Sizes{4, 2, 32, 600, 50}}) {
    const Problem problem(random, sizes);
    for (const GqaRow& row : attention_gqa_rows()) {
      if (!runs_here(row.info)) continue;
      const std::vector<float> one = problem.run(row.fn, 1);
      for (const int threads : {2, 3, 9}) {
        EXPECT_EQ(compare_exact(one, problem.run(row.fn, threads)), "")
            << row.info.id << " " << threads << " " << name(sizes);
      }
    }
  }
}

TEST(AttentionGqa, NoRowsIsNoWork) {
  for (const GqaRow& row : attention_gqa_rows()) {
    if (!runs_here(row.info)) continue;
    Machine machine(2);
    float value = 1, guard = kPoison;
    row.fn({&value, &value, &value, 1, 1, 1, 1, 0, 0, 1.0f, &guard}, machine.context);
    EXPECT_TRUE(std::isnan(guard)) << row.info.id;
  }
}

}  // namespace
}  // namespace fairway::kernels
