// Every band kernel against the double-precision product of the decoded weights: widths, codebooks, row counts, half
// bands, input sizes and alignments.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "backend/cpu/features.h"
#include "common/compare.h"
#include "kernels/common/registry.h"
#include "kernels/trellis_band/driver.h"
#include "kernels/trellis_band/reference.h"
#include "kernels/trellis_band/trellis_fixture.h"

namespace fairway::kernels {
namespace {

using backend::kCpuAvx2;
using backend::kCpuAvx512;
using backend::kCpuAvx512Fp16;
using backend::kCpuAvx512Vbmi;
using backend::kCpuAvx512Vnni;
using backend::kCpuAvxVnni;

constexpr std::uint32_t kYmmVnni = kCpuAvx2 | kCpuAvxVnni;
constexpr std::uint32_t kZmm = kCpuAvx512 | kCpuAvx512Vnni | kCpuAvx512Vbmi;
constexpr std::uint32_t kZmmFp16 = kZmm | kCpuAvx512Fp16;

// Errors of one product, relative to its row's norm. With the largest of 128 normal values near 2.75 deviations, int8
// activations cost 2.75 / 127 / sqrt(12) = 0.63 %; mul1_codes.h and f16_avx512fp16.cc say what the codes cost.
constexpr double kFp32 = 2e-6, kFp16 = 0.0025, kWords = 0.0005, kPairWordsError = 0.0007, kPairs = 0.0141,
                 kBytes = 0.0175;

struct NamedKernel {
  const char* name;
  const BandKernel* kernel;
  std::uint32_t features;
  double row_error;  // of any row: sums of 128 columns scatter around the mean error
  bool whole_bands = false;
};

const NamedKernel kKernels[] = {
    {"f32 single avx2", &kBandF32SingleAvx2, kCpuAvx2, kFp32},
    {"f32 quad avx2", &kBandF32QuadAvx2, kCpuAvx2, kFp32},
    {"f32 panel avx2", &kBandF32PanelAvx2, kCpuAvx2, kFp32},
    {"f32 single avx512", &kBandF32SingleAvx512, kZmm, kFp32},
    {"f32 quad avx512", &kBandF32QuadAvx512, kZmm, kFp32},
    {"f32 panel avx512", &kBandF32PanelAvx512, kZmm, kFp32},
    {"pairs single avx2", &kBandI8SingleAvx2, kCpuAvx2, kPairs},
    {"pairs quad avx2", &kBandI8QuadAvx2, kCpuAvx2, kPairs},
    {"pairs panel avx2", &kBandI8PanelAvx2, kCpuAvx2, kPairs},
    {"pairs wide panel avx2", &kBandI8WidePanelAvx2, kCpuAvx2, kPairs, true},
    {"pairs single avxvnni", &kBandI8SingleAvxVnni, kYmmVnni, kPairs},
    {"pairs quad avxvnni", &kBandI8QuadAvxVnni, kYmmVnni, kPairs},
    {"pairs panel avxvnni", &kBandI8PanelAvxVnni, kYmmVnni, kPairs},
    {"pairs wide panel avxvnni", &kBandI8WidePanelAvxVnni, kYmmVnni, kPairs, true},
    {"pairs single avx512", &kBandI8SingleAvx512, kZmm, kPairs},
    {"pairs quad avx512", &kBandI8QuadAvx512, kZmm, kPairs},
    {"pairs of any width avx2", &kBandI8RuntimeAvx2, kCpuAvx2, kPairs},
    {"pairs of any width avx512", &kBandI8RuntimeAvx512, kZmm, kPairs},
    {"words panel avx2", &kBandWordsPanelAvx2, kCpuAvx2, kWords},
    {"words wide panel avx2", &kBandWordsWidePanelAvx2, kCpuAvx2, kWords, true},
    {"words panel avxvnni", &kBandWordsPanelAvxVnni, kYmmVnni, kWords},
    {"words wide panel avxvnni", &kBandWordsWidePanelAvxVnni, kYmmVnni, kWords, true},
    {"words panel avx512", &kBandWordsPanelAvx512, kZmm, kWords},
    {"words wide panel avx512", &kBandWordsWidePanelAvx512, kZmm, kWords, true},
    {"bytes panel avxvnni", &kBandBytesPanelAvxVnni, kYmmVnni, kBytes},
    {"bytes wide panel avxvnni", &kBandBytesWidePanelAvxVnni, kYmmVnni, kBytes, true},
    {"bytes panel avx512", &kBandBytesPanelAvx512, kZmm, kBytes},
    {"bytes wide panel avx512", &kBandBytesWidePanelAvx512, kZmm, kBytes, true},
    {"i16 single avx2", &kBandI16SingleAvx2, kCpuAvx2, kPairWordsError},
    {"i16 quad avx2", &kBandI16QuadAvx2, kCpuAvx2, kPairWordsError},
    {"i16 panel avx2", &kBandI16PanelAvx2, kCpuAvx2, kPairWordsError},
    {"i16 wide panel avx2", &kBandI16WidePanelAvx2, kCpuAvx2, kPairWordsError, true},
    {"i16 single avxvnni", &kBandI16SingleAvxVnni, kYmmVnni, kPairWordsError},
    {"i16 quad avxvnni", &kBandI16QuadAvxVnni, kYmmVnni, kPairWordsError},
    {"i16 panel avxvnni", &kBandI16PanelAvxVnni, kYmmVnni, kPairWordsError},
    {"i16 wide panel avxvnni", &kBandI16WidePanelAvxVnni, kYmmVnni, kPairWordsError, true},
    {"i16 single avx512", &kBandI16SingleAvx512, kZmm, kPairWordsError},
    {"i16 quad avx512", &kBandI16QuadAvx512, kZmm, kPairWordsError},
    {"i16 panel avx512", &kBandI16PanelAvx512, kZmm, kPairWordsError},
    {"i16 wide panel avx512", &kBandI16WidePanelAvx512, kZmm, kPairWordsError, true},
    {"i16 bytes panel avx512", &kBandI16BytesPanelAvx512, kZmm, kBytes},
    {"i16 bytes wide panel avx512", &kBandI16BytesWidePanelAvx512, kZmm, kBytes, true},
    {"i16 bytes panel avxvnni", &kBandI16BytesPanelAvxVnni, kYmmVnni, kBytes},
    {"i16 bytes wide panel avxvnni", &kBandI16BytesWidePanelAvxVnni, kYmmVnni, kBytes, true},
    {"f16 single avx512", &kBandF16SingleAvx512, kZmmFp16, kFp16},
    {"f16 quad avx512", &kBandF16QuadAvx512, kZmmFp16, kFp16},
    {"f16 panel avx512", &kBandF16PanelAvx512, kZmmFp16, kFp16},
    {"f16 wide panel avx512", &kBandF16WidePanelAvx512, kZmmFp16, kFp16, true},
    {"f16 bytes panel avx512", &kBandF16BytesPanelAvx512, kZmmFp16, kBytes},
    {"f16 bytes wide panel avx512", &kBandF16BytesWidePanelAvx512, kZmmFp16, kBytes, true},
};

std::vector<NamedKernel> kernels_of_this_machine() {
  std::vector<NamedKernel> kernels;
  for (const NamedKernel& k : kKernels) {
    if ((k.features & ~backend::cpu_info().features) == 0) kernels.push_back(k);
  }
  return kernels;
}

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

}  // namespace
}  // namespace fairway::kernels
