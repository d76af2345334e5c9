// Every band kernel against the double-precision product of the decoded weights: widths, codebooks, row counts, half
// bands, input sizes and alignments.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>

#include "common/compare.h"
#include "kernels/common/registry.h"
#include "kernels/trellis_band/driver.h"
#include "kernels/trellis_band/named_kernels.h"
#include "kernels/trellis_band/reference.h"
#include "kernels/trellis_band/trellis_fixture.h"

namespace fairway::kernels {
namespace {

// Prepared rows and the same rows as the reference reads them.
struct Rows {
  std::vector<std::uint8_t> storage, scratch;
  std::uint8_t* prepared;
  std::int64_t stride;
  std::vector<double> exact;
  int m;

  Rows(const BandKernel& kernel, std::mt19937& random, int count, int in)
      : stride(aligned_row_bytes(kernel, in)), m(count) {
    const std::vector<float> x = test::random_normal(random, static_cast<std::size_t>(m * in));
    exact.assign(x.begin(), x.end());
    storage.resize(static_cast<std::size_t>(m * stride) + 64);
    scratch.resize(kernel.scratch_bytes + 64);
    prepared = aligned(storage);
    for (int r = 0; r < m; ++r) {
      for (int b = 0; b < in / kBandWidth; ++b) {
        kernel.store_block(x.data() + r * in + b * kBandWidth, prepared + r * stride, in, b);
      }
    }
  }
  static std::uint8_t* aligned(std::vector<std::uint8_t>& bytes) {
    return bytes.data() + (64 - reinterpret_cast<std::uintptr_t>(bytes.data()) % 64) % 64;
  }
};

// y[m][128] of tiles first_tile .. first_tile + tiles of a band; columns that the kernel must not write stay poison.
std::vector<float> product(const BandKernel& kernel, const TrellisMatrix& matrix, int band, int first_tile, int tiles,
                           Rows& rows) {
  Band part = band_of({matrix, part_of_band(band, 0, 1), &matrix, part_of_band(band + 1, 0, 1)});
  part.words += first_tile * codec::tile_bytes(matrix.bits);
  part.tiles = tiles;
  std::vector<float> y = test::poison(static_cast<std::size_t>(rows.m * kBandWidth));
  kernel.dot(part, rows.prepared, rows.stride, rows.m, y.data() + first_tile * codec::kTileDim,
             Rows::aligned(rows.scratch));
  return y;
}

std::vector<float> expected_product(const TrellisMatrix& matrix, int band, const Rows& rows) {
  std::vector<double> y(static_cast<std::size_t>(rows.m * kBandWidth));
  reference_inner(matrix, band, rows.exact.data(), rows.m, y.data());
  return {y.begin(), y.end()};
}

void check_halves(const NamedKernel& k, const TrellisMatrix& matrix, int band, Rows& rows,
                  const std::vector<float>& whole) {
  for (const int first : {0, kHalfBandTiles}) {
    const std::vector<float> half = product(*k.kernel, matrix, band, first, kHalfBandTiles, rows);
    for (int r = 0; r < rows.m; ++r) {
      const auto line = std::span(half).subspan(static_cast<std::size_t>(r * kBandWidth), kBandWidth);
      const auto same = std::span(whole).subspan(static_cast<std::size_t>(r * kBandWidth), kBandWidth);
      const std::size_t begin = first == 0 ? 0 : kBandWidth / 2;
      EXPECT_EQ(test::compare_exact(same.subspan(begin, kBandWidth / 2), line.subspan(begin, kBandWidth / 2)), "");
      EXPECT_TRUE(test::still_poison(line.subspan(kBandWidth / 2 - begin, kBandWidth / 2)));
    }
  }
}

void check(const NamedKernel& k, std::mt19937& random, codec::Codebook codebook, int bits, int m, int in) {
  SCOPED_TRACE(fmt::format("{}, {}, {} bits, m {}, in {}", k.name, codec::codebook_name(codebook), bits, m, in));
  const test::RandomTrellis weights(random, in, 2 * kBandWidth, bits, codebook, false);
  Rows rows(*k.kernel, random, m, in);
  const int band = static_cast<int>(random() % 2);
  const std::vector<float> whole = product(*k.kernel, weights.matrix(), band, 0, kBandTiles, rows);
  EXPECT_EQ(
      test::compare(expected_product(weights.matrix(), band, rows), whole, kBandWidth, {.row_relative = k.row_error}),
      "");
  if (!k.whole_bands) check_halves(k, weights.matrix(), band, rows, whole);
}

TEST(BandKernels, EveryWidthAndCodebook) {
  const unsigned seed = 1807;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (const NamedKernel& k : kernels_of_this_machine()) {
    for (const auto codebook : {codec::Codebook::k3inst, codec::Codebook::kMcg, codec::Codebook::kMul1}) {
      if ((k.kernel->codebooks & codebook_bit(codebook)) == 0) continue;
      for (int bits = FAIRWAY_MIN_BITS; bits <= FAIRWAY_MAX_BITS; ++bits) check(k, random, codebook, bits, 3, 256);
    }
  }
}

TEST(BandKernels, RowCountsAndInputSizes) {
  const unsigned seed = 1808;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (const NamedKernel& k : kernels_of_this_machine()) {
    const auto codebook =
        k.kernel->codebooks & codebook_bit(codec::Codebook::kMul1) ? codec::Codebook::kMul1 : codec::Codebook::kMcg;
    for (const int m : {1, 2, 4, 5, 6, 7, 8, 11, 12, 33}) {
      check(k, random, codebook, 1 + static_cast<int>(random() % FAIRWAY_MAX_BITS), m, 128);
    }
    check(k, random, codebook, 3, 5, 640);
  }
}

// Zero rows, and rows too small or large for a careless scale.
TEST(BandKernels, ExtremeRows) {
  std::mt19937 random(1809);
  for (const NamedKernel& k : kernels_of_this_machine()) {
    SCOPED_TRACE(k.name);
    const auto codebook =
        k.kernel->codebooks & codebook_bit(codec::Codebook::kMul1) ? codec::Codebook::kMul1 : codec::Codebook::k3inst;
    const test::RandomTrellis weights(random, 128, 128, 4, codebook, false);
    for (const float scale : {0.0f, 1e-37f, 1e30f}) {
      Rows rows(*k.kernel, random, 1, 128);
      std::vector<float> x(kBandWidth);
      for (std::size_t i = 0; i < x.size(); ++i) {
        x[i] = static_cast<float>(rows.exact[i]) * scale;
        rows.exact[i] = x[i];
      }
      k.kernel->store_block(x.data(), rows.prepared, 128, 0);
      const std::vector<float> y = product(*k.kernel, weights.matrix(), 0, 0, kBandTiles, rows);
      EXPECT_EQ(test::compare(expected_product(weights.matrix(), 0, rows), y, kBandWidth,
                              {.row_relative = k.row_error, .row_absolute = 1e-30}),
                "")
          << scale;
    }
  }
}

// The root mean square over many rows, where single rows no longer scatter.
TEST(BandKernels, IntegerKernelsStayBelowOnePercent) {
  std::mt19937 random(1810);
  constexpr int kIn = 1024, kRows = 48;
  for (const NamedKernel& k : kernels_of_this_machine()) {
    SCOPED_TRACE(k.name);
    const auto codebook =
        k.kernel->codebooks & codebook_bit(codec::Codebook::kMul1) ? codec::Codebook::kMul1 : codec::Codebook::kMcg;
    const test::RandomTrellis weights(random, kIn, 2 * kBandWidth, 3, codebook, false);
    Rows rows(*k.kernel, random, kRows, kIn);
    double error = 0, total = 0;
    for (const int band : {0, 1}) {
      const std::vector<float> expected = expected_product(weights.matrix(), band, rows);
      const std::vector<float> actual = product(*k.kernel, weights.matrix(), band, 0, kBandTiles, rows);
      for (std::size_t i = 0; i < actual.size(); ++i) {
        error += std::pow(static_cast<double>(actual[i]) - expected[i], 2);
        total += std::pow(static_cast<double>(expected[i]), 2);
      }
    }
    EXPECT_LT(std::sqrt(error / total), 0.01);
    RecordProperty(std::string(k.name), fmt::format("{:.5f}", std::sqrt(error / total)));
  }
}

// Integer codes and fp32: one sum per column in ascending order, exact or with one rounding per input. Half precision
// rounds what it sums side by side and is left out.
TEST(BandKernels, KernelsOfAFormatGiveTheSameBits) {
  const unsigned seed = 1811;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  for (const auto codebook : {codec::Codebook::k3inst, codec::Codebook::kMcg, codec::Codebook::kMul1}) {
    for (int bits = FAIRWAY_MIN_BITS; bits <= FAIRWAY_MAX_BITS; ++bits) {
      std::map<std::string, std::vector<float>> first_of_format;
      for (const NamedKernel& k : kernels_of_this_machine()) {
        if (k.format().starts_with("f16") || (k.kernel->codebooks & codebook_bit(codebook)) == 0) continue;
        SCOPED_TRACE(fmt::format("{}, {}, {} bits", k.name, codec::codebook_name(codebook), bits));
        std::mt19937 random(seed);
        const test::RandomTrellis weights(random, 384, kBandWidth, bits, codebook, false);
        Rows rows(*k.kernel, random, 13, 384);
        const std::vector<float> y = product(*k.kernel, weights.matrix(), 0, 0, kBandTiles, rows);
        const auto [first, is_first] = first_of_format.try_emplace(k.format(), y);
        EXPECT_EQ(is_first ? "" : test::compare_exact(first->second, y), "");
      }
    }
  }
}

}  // namespace
}  // namespace fairway::kernels
