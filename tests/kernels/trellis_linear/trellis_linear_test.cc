// Every row of trellis_linear: against the reference at every width, codebook and row count, against the shared
// vectors, across rows and thread counts.
#include "kernels/trellis_linear/trellis_linear.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <tuple>

#include "codec/half.h"
#include "codec/vectors.h"
#include "common/compare.h"
#include "fairway/error.h"
#include "kernels/trellis_linear/linear_problem.h"

namespace fairway::kernels {
namespace {

constexpr int kRowCounts[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33};

struct Shape {
  int in, out;
};

TEST(TrellisLinear, EveryRowAgreesWithTheReference) {
  const unsigned seed = 991;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const TrellisLinearRow& reference = trellis_linear_rows().front();
  ASSERT_STREQ(reference.info.id, "cpu_ref/trellis_linear");
  const Shape shapes[] = {{128, 128}, {200, 130}, {384, 256}, {129, 383}};
  std::size_t shape = 0;
  for (int bits = FAIRWAY_MIN_BITS; bits <= FAIRWAY_MAX_BITS; ++bits) {
    for (const codec::Codebook codebook : kCodebooks) {
      const Shape s = shapes[shape++ % std::size(shapes)];
      const test::RandomTrellis weights(random, s.in, s.out, bits, codebook, bits % 2 == 0);
      for (const int m : kRowCounts) {
        const std::vector<float> x = random_rows(random, m, s.in);
        const std::vector<float> expected = run(reference, weights, x, m, 2);
        std::map<std::tuple<Activations, WeightCodes, std::uint8_t>, std::vector<float>> consistent;
        for (const TrellisLinearRow* row : rows_that_read(codebook)) {
          SCOPED_TRACE(testing::Message() << row->info.id << " bits " << bits << " " << codec::codebook_name(codebook)
                                          << " m " << m << " " << s.in << " -> " << s.out);
          const std::vector<float> actual = run(*row, weights, x, m, 1 + m % 3);
          EXPECT_EQ(test::compare(expected, actual, s.out, bound_of(row->info, weights.matrix().in)), "");
          if (row->info.numerics != Numerics::kConsistent) continue;
          const auto [first, inserted] =
              consistent.try_emplace({row->info.activations, row->info.codes, row->info.codebooks}, actual);
          if (!inserted) {
            EXPECT_EQ(test::compare_exact(first->second, actual), "");
          }
        }
      }
    }
  }
}

// A row of x gives the same result whatever rows it is computed with, so decode and prefill agree.
TEST(TrellisLinear, RowsDoNotInfluenceEachOtherAndThreadsDoNotMatter) {
  const unsigned seed = 12;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const int in = 300, out = 520, m = 70;
  for (const codec::Codebook codebook : {codec::Codebook::kMcg, codec::Codebook::kMul1}) {
    const test::RandomTrellis weights(random, in, out, 3, codebook, true);
    const std::vector<float> x = random_rows(random, m, in);
    for (const TrellisLinearRow* row : rows_that_read(codebook)) {
      SCOPED_TRACE(row->info.id);
      const std::vector<float> all = run(*row, weights, x, m, 1);
      EXPECT_EQ(test::compare_exact(all, run(*row, weights, x, m, 2)), "");
      EXPECT_EQ(test::compare_exact(all, run(*row, weights, x, m, 3)), "");
      const std::vector<float> last(x.end() - (in + 5), x.end());
      expect_same(row->info, std::span(all).last(out), run(*row, weights, last, 1, 1), in, out);
    }
  }
}

TEST(TrellisLinear, SharedVectors) {
  const test::Vectors vectors = test::load_vectors();
  const auto widen = [](const std::vector<std::uint16_t>& halves) {
    std::vector<float> v;
    for (const std::uint16_t h : halves) v.push_back(codec::float_from_half(h));
    return v;
  };
  const int in = 256, out = 128, m = 4;
  for (const int bits : {2, 3, 4, 6}) {
    const std::string prefix = fmt::format("lin_K{}_", bits);
    const std::vector<float> suh = widen(vectors.words.at(prefix + "suh")),
                             svh = widen(vectors.words.at(prefix + "svh"));
    const std::vector<float> x = widen(vectors.words.at(prefix + "x"));
    const auto* words = reinterpret_cast<const std::uint8_t*>(vectors.words.at(prefix + "trellis").data());
    for (const codec::Codebook codebook : kCodebooks) {
      const TrellisMatrix matrix{words, in, out, bits, codebook, suh.data(), svh.data(), nullptr};
      const auto& expected = vectors.floats.at(prefix + codec::codebook_name(codebook) + "_y");
      for (const TrellisLinearRow* row : rows_that_read(codebook)) {
        backend::ThreadPool pool(2);
        backend::Workspace workspace;
        KernelContext context{pool, workspace};
        std::vector<float> y = test::poison(m * out);
        row->fn({&matrix, x.data(), in, in, y.data(), out, out, m}, row->info.tile, context);
        EXPECT_EQ(test::compare(expected, y, out, bound_of(row->info, in)), "") << row->info.id << " " << prefix;
      }
    }
  }
}

TEST(TrellisLinear, NanAndInfinityReachTheResult) {
  std::mt19937 random(3);
  for (const codec::Codebook codebook : kCodebooks) {
    const test::RandomTrellis weights(random, 256, 128, 3, codebook, false);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> x = random_rows(random, 2, 256);
      x[140] = bad;
      for (const TrellisLinearRow* row : rows_that_read(codebook)) {
        const std::vector<float> y = run(*row, weights, x, 2, 1);
        for (std::size_t i = 0; i < 128; ++i) {
          EXPECT_FALSE(std::isfinite(y[i])) << row->info.id << " " << i;
          EXPECT_TRUE(std::isfinite(y[128 + i])) << row->info.id << " " << i;
        }
      }
    }
  }
}

// Blocks of zeros and of values so small that the inverse of the largest overflows.
TEST(TrellisLinear, ZeroAndTinyRows) {
  std::mt19937 random(4);
  for (const codec::Codebook codebook : kCodebooks) {
    const test::RandomTrellis weights(random, 256, 128, 4, codebook, false);
    for (const float scale : {0.0f, 1e-42f}) {
      std::vector<float> x = random_rows(random, 1, 256);
      for (float& v : x) v *= scale;
      for (const TrellisLinearRow* row : rows_that_read(codebook)) {
        for (const float v : run(*row, weights, x, 1, 1)) EXPECT_LE(std::fabs(v), 100 * scale) << row->info.id;
      }
    }
  }
}

// A row whose transformed blocks are constant is quantized without error, so what is left of an int8 row is the affine
// form of the codebook, 2.1e-4 of its deviation, and the byte averages, 0.48 % of random sign. An offset of 510 a
// instead of 3.453125 would show as 2.9 % here, and a forgotten mean of the averages as 0.68 %, because all errors of
// an offset have one sign.
TEST(TrellisLinear, ConstantBlocksShowTheOffsetOfTheCodebook) {
  const unsigned seed = 6;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const int in = 256, out = 256;
  for (int bits = FAIRWAY_MIN_BITS; bits <= FAIRWAY_MAX_BITS; ++bits) {
    const test::RandomTrellis weights(random, in, out, bits, codec::Codebook::kMul1, false);
    std::vector<float> x(in + 5, 0.0f);
    x[0] = 1.0f / weights.matrix().suh[0];
    x[128] = 1.0f / weights.matrix().suh[128];
    const std::vector<float> expected = run(trellis_linear_rows().front(), weights, x, 1, 1);
    for (const TrellisLinearRow* row : rows_that_read(codec::Codebook::kMul1)) {
      ASSERT_NE(row->info.codes, WeightCodes::kBytes) << "bytes have a larger error, which would hide the offset's";
      EXPECT_EQ(test::compare(expected, run(*row, weights, x, 1, 1), out, {.row_relative = 1.25 * test::kPairsError}),
                "")
          << row->info.id << " bits " << bits;
    }
  }
}

TEST(TrellisLinear, RowsRefuseCodebooksTheyDoNotRead) {
  std::mt19937 random(5);
  for (const codec::Codebook codebook : kCodebooks) {
    const test::RandomTrellis weights(random, 128, 128, 3, codebook, false);
    const std::vector<float> x = random_rows(random, 1, 128);
    for (const TrellisLinearRow& row : trellis_linear_rows()) {
      if (!can_run(row.info, backend::cpu_info().features) || (row.info.codebooks & codebook_bit(codebook))) continue;
      EXPECT_THROW(run(row, weights, x, 1, 1), Error) << row.info.id;
    }
  }
}

}  // namespace
}  // namespace fairway::kernels
