// Tests of multi-head latent attention: the two forms against each other and every row against the reference.
#include "kernels/attention_mla/attention_mla.h"

#include <gtest/gtest.h>

#include <algorithm>
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
  int heads, nope, rope, v, latent, start, m;
};

std::string name(const Sizes& s) {
  return "heads " + std::to_string(s.heads) + " nope " + std::to_string(s.nope) + " rope " + std::to_string(s.rope) +
         " v " + std::to_string(s.v) + " latent " + std::to_string(s.latent) + " start " + std::to_string(s.start) +
         " m " + std::to_string(s.m);
}

// Positions behind start + m hold NaN, so a kernel that looks ahead shows it.
struct Problem {
  Sizes s;
  std::int64_t cache_ld;
  std::vector<float> q, cache, weights;
  StoredMatrix kv_b;
  float scale;

  Problem(std::mt19937& random, const Sizes& sizes, DenseType type)
      : s(sizes),
        cache_ld(sizes.latent + sizes.rope + 3),
        q(gaussian(random, static_cast<std::size_t>(s.m * s.heads * (s.nope + s.rope)))),
        cache(gaussian(random, static_cast<std::size_t>((s.start + s.m) * cache_ld))),
        weights(gaussian(random, static_cast<std::size_t>(s.heads * (s.nope + s.v) * s.latent),
                         1.0f / std::sqrt(static_cast<float>(s.latent)))),
        kv_b(weights, type, s.latent, s.heads * (s.nope + s.v)),
        scale(1.0f / std::sqrt(static_cast<float>(s.nope + s.rope))) {
    cache.insert(cache.end(), static_cast<std::size_t>(2 * cache_ld), kPoison);
  }

  std::vector<float> run(MlaFn fn, int threads, int first = 0, int rows = -1) const {
    Machine machine(threads);
    const int count = rows < 0 ? s.m : rows;
    std::vector<float> out(static_cast<std::size_t>(count * s.heads * s.v), kPoison);
    fn({q.data() + static_cast<std::ptrdiff_t>(first) * s.heads * (s.nope + s.rope), cache.data(), cache_ld,
        &kv_b.view(), s.heads, s.nope, s.rope, s.v, s.latent, s.start + first, count, scale, out.data()},
       machine.context);
    return out;
  }

  // First-order effect of rounding errors that add up like random ones (square root of their number), times 4. A score
  // is scale * q . k with components of k near N(0, growth), so its terms sum to about `score`; it passes through two
  // sums of nope + rope and latent terms, eight per lane and step. Its error shifts numerator and denominator of the
  // probabilities. The values' sums over latent and positions add theirs. All relative to the size of the outputs.
  Bound bound(const std::vector<float>& expected, double growth = 1.0) const {
    const double score = scale * largest_row_norm(q, static_cast<std::size_t>(s.nope + s.rope)) * 1.5 * growth;
    const double roundings = std::sqrt((s.latent + s.nope + s.rope) / 8.0 + 8.0);
    return {.absolute = 4 * kEpsilon * largest_magnitude(expected) *
                        (2 * score * roundings + roundings + std::sqrt(s.start + s.m))};
  }
};

const MlaRow& row_named(const std::string& id) {
  for (const MlaRow& row : attention_mla_rows()) {
    if (row.info.id == id) return row;
  }
  throw std::out_of_range(id);
}

TEST(AttentionMla, RowsDescribeThemselves) {
  std::vector<std::string> ids;
  for (const MlaRow& row : attention_mla_rows()) ids.emplace_back(row.info.id);
  EXPECT_EQ(ids,
            (std::vector<std::string>{"cpu_ref/mla_absorbed", "cpu_ref/mla_expanded", "cpu_avx2/mla_absorbed",
                                      "cpu_avx2/mla_expanded", "cpu_avx512/mla_absorbed", "cpu_avx512/mla_expanded"}));
}

// With one visible position its probability is 1 and the output is W_UV times its latent, whatever the query is.
TEST(AttentionMla, OnePositionGivesItsValue) {
  const unsigned seed = 3;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const Problem problem(random, {2, 5, 4, 3, 6, 0, 1}, DenseType::kF32);
  std::vector<float> expected;
  for (int h = 0; h < 2; ++h) {
    for (int j = 0; j < 3; ++j) {
      double sum = 0;
      for (int c = 0; c < 6; ++c)
        sum += static_cast<double>(problem.weights[static_cast<std::size_t>((h * 8 + 5 + j) * 6 + c)]) *
               problem.cache[static_cast<std::size_t>(c)];
      expected.push_back(static_cast<float>(sum));
    }
  }
  for (const MlaRow& row : attention_mla_rows()) {
    if (!runs_here(row.info)) continue;
    EXPECT_EQ(compare(expected, problem.run(row.fn, 1), 3, {.absolute = 32 * kEpsilon * 6}), "") << row.info.id;
  }
}

TEST(AttentionMla, EveryRowAgreesWithBothReferences) {
  const unsigned seed = 5;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const Sizes cases[] = {
      {1, 1, 2, 1, 1, 0, 1},       {2, 16, 32, 16, 32, 0, 5},   {3, 24, 32, 20, 40, 9, 1},
      {8, 64, 32, 64, 128, 30, 2}, {5, 48, 64, 33, 64, 100, 3}, {3, 17, 32, 31, 50, 250, 17},
      {4, 32, 32, 48, 33, 600, 4}, {2, 20, 64, 24, 48, 0, 70},  {1, 12, 32, 8, 24, 500, 40},
      {11, 8, 32, 16, 16, 255, 1}, {3, 16, 32, 24, 20, 0, 16},
  };
  int type = 0;
  for (const Sizes& sizes : cases) {
    const Problem problem(random, sizes, kDenseTypes[type++ % 3]);
    const std::vector<float> absorbed = problem.run(row_named("cpu_ref/mla_absorbed").fn, 2);
    const std::vector<float> expanded = problem.run(row_named("cpu_ref/mla_expanded").fn, 2);
    EXPECT_EQ(compare(absorbed, expanded, sizes.v, {.absolute = 4 * kEpsilon, .relative = 4 * kEpsilon}), "");
    for (const MlaRow& row : attention_mla_rows()) {
      if (!runs_here(row.info)) continue;
      const std::vector<float> out = problem.run(row.fn, 2);
      EXPECT_EQ(compare(expanded, out, sizes.v, problem.bound(expanded)), "") << row.info.id << " " << name(sizes);
    }
  }
}

// More positions than one segment of expanded keys (1024) and several blocks of the running softmax.
TEST(AttentionMla, LongCachesCrossSegments) {
  const unsigned seed = 6;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const Sizes sizes{2, 8, 32, 8, 12, 1290, 20};
  const Problem problem(random, sizes, DenseType::kBf16);
  const std::vector<float> expected = problem.run(row_named("cpu_ref/mla_expanded").fn, 2);
  for (const MlaRow& row : attention_mla_rows()) {
    if (!runs_here(row.info)) continue;
    EXPECT_EQ(compare(expected, problem.run(row.fn, 2), sizes.v, problem.bound(expected)), "") << row.info.id;
  }
}

// Scores of several hundred: the softmax must subtract the running maximum, and late large scores must rescale.
TEST(AttentionMla, LargeScoresDoNotOverflow) {
  const unsigned seed = 8;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  Problem problem(random, {2, 16, 32, 16, 24, 700, 3}, DenseType::kF32);
  for (std::size_t t = 0; t < 703; ++t) {
    for (std::size_t c = 0; c < 24 + 32; ++c)
      problem.cache[t * static_cast<std::size_t>(problem.cache_ld) + c] *= 1.0f + 0.05f * static_cast<float>(t);
  }
  const std::vector<float> expected = problem.run(row_named("cpu_ref/mla_absorbed").fn, 2);
  for (const MlaRow& row : attention_mla_rows()) {
    if (!runs_here(row.info)) continue;
    EXPECT_EQ(compare(expected, problem.run(row.fn, 2), 16, problem.bound(expected, 1.0 + 0.05 * 703)), "")
        << row.info.id;
  }
}

TEST(AttentionMla, SameBitsForAnyNumberOfThreads) {
  const unsigned seed = 9;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (const Sizes& sizes :
       {Sizes{5, 24, 32, 20, 40, 300, 1}, Sizes{5, 24, 32, 20, 40, 33, 12}, Sizes{3, 16, 32, 16, 24, 10, 90}}) {
    const Problem problem(random, sizes, DenseType::kBf16);
    for (const MlaRow& row : attention_mla_rows()) {
      if (!runs_here(row.info) || row.info.backend == Backend::kCpuRef) continue;
      const std::vector<float> one = problem.run(row.fn, 1);
      for (const int threads : {2, 3, 7}) {
        EXPECT_EQ(compare_exact(one, problem.run(row.fn, threads)), "")
            << row.info.id << " " << threads << " " << name(sizes);
      }
    }
  }
}

// A row sees the same keys and values whether it comes alone or with others.
TEST(AttentionMla, SameBitsForAnyGroupingOfRows) {
  const unsigned seed = 10;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const Problem problem(random, {3, 24, 32, 20, 40, 200, 71}, DenseType::kF16);
  for (const MlaRow& row : attention_mla_rows()) {
    if (!runs_here(row.info) || row.info.backend == Backend::kCpuRef) continue;
    const std::vector<float> all = problem.run(row.fn, 2);
    std::vector<float> parts;
    for (int i = 0, step = 1; i < problem.s.m; i += step, step = step % 13 + 1) {
      const std::vector<float> part = problem.run(row.fn, 2, i, std::min(step, problem.s.m - i));
      parts.insert(parts.end(), part.begin(), part.end());
    }
    EXPECT_EQ(compare_exact(all, parts), "") << row.info.id;
  }
}

TEST(AttentionMla, NoRowsIsNoWork) {
  const unsigned seed = 12;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const Problem problem(random, {2, 8, 32, 8, 16, 4, 1}, DenseType::kF32);
  for (const MlaRow& row : attention_mla_rows()) {
    if (!runs_here(row.info)) continue;
    Machine machine(2);
    float guard = kPoison;
    row.fn({problem.q.data(), problem.cache.data(), problem.cache_ld, &problem.kv_b.view(), 2, 8, 32, 8, 16, 4, 0,
            problem.scale, &guard},
           machine.context);
    EXPECT_TRUE(std::isnan(guard)) << row.info.id;
  }
}

}  // namespace
}  // namespace fairway::kernels
