// The CUDA expert layer against double precision: every path, width, codebook and remainder, four kinds of routing.
// Suites that end in Full run on request only; tests/cuda_main.cc says how.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "codec/trellis.h"
#include "kernels/common/cuda/case_size.h"
#include "kernels/moe_swiglu/cuda/layer_check.cuh"

namespace fairway::kernels::cuda::check {
namespace {

constexpr int kMul1 = static_cast<int>(codec::Codebook::kMul1);
constexpr int kAnyCodebook = -1, kAnyBits = 0;
constexpr bool kCommonScales = true, kOwnScales = false;
// The small ones: one full and one broken group of every size.
using Counts = std::vector<int>;
const int kEveryRouting = by_size(4, 2, 1);
const Counts kEveryWidth = by_size<Counts>({1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 3, 4, 5, 6, 7, 8}, {3, 8});
const Counts kFew = by_size<Counts>({1, 2, 5, 17}, {2});
const Counts kAll = by_size<Counts>({1, 2, 3, 5, 8, 9, 16, 17, 31, 32, 33, 64, 100, 257}, {1, 9});
const Counts kManyTokens = by_size<Counts>({31, 33, 65, 96, 97, 128, 129, 200, 257}, {40, 139});

const LayerShape kMixedCodebooks{
    "mixed codebooks, common suh", 5, 0, 2, 640, 128, kAnyBits, kAnyCodebook, kCommonScales, 34};
const LayerShape kWide{"wide, 3 bits", 4, 1, 2, 2048, 256, 3, kMul1, kCommonScales, 35};

TEST(GpuMoe, EveryWidth) {
  for (const int bits : kEveryWidth) {
    check_layer({"mul1, " + std::to_string(bits) + " bits", 3, 0, 1, 256, 128, bits, kMul1, kCommonScales,
                 10u + static_cast<unsigned>(bits)},
                kFew, 1);
  }
}

TEST(GpuMoe, OtherCodebooks) {
  check_layer({"3inst, 3 bits", 3, 0, 1, 256, 128, 3, 0, kCommonScales, 20}, kFew, 1);
  check_layer({"mcg, 3 bits", 3, 0, 1, 256, 128, 3, 1, kCommonScales, 21}, kFew, 1);
}

TEST(GpuMoe, MixedWidths) {
  check_layer({"mixed widths, mul1", 6, 1, 3, 256, 384, kAnyBits, kMul1, kCommonScales, 31}, kAll, kEveryRouting);
}

TEST(GpuMoe, MixedWidthsWithScalesOfTheirOwn) {
  check_layer({"mixed widths, separate suh", 6, 1, 3, 384, 256, kAnyBits, kMul1, kOwnScales, 32}, kAll, kEveryRouting);
}

TEST(GpuMoe, MixedWidthsAndCodebooks) {
  check_layer({"mixed widths and codebooks", 8, 2, 4, 128, 256, kAnyBits, kAnyCodebook, kOwnScales, 33}, kAll,
              kEveryRouting);
}

TEST(GpuMoe, MixedCodebooksWithCommonScales) {
  check_layer(kMixedCodebooks, kAll, 1);
}

TEST(GpuMoe, ManyInputs) {
  check_layer(kWide, kFew, 1);
}

// Segments of every number of columns of the wide path, and experts of several segments.
TEST(GpuMoe, ManyTokens) {
  check_layer({"many tokens, common suh", 3, 1, 2, 128, 128, 3, kMul1, kCommonScales, 38}, kManyTokens, 1,
              {MoePath::kWide128});
  check_layer({"many tokens, separate suh", 3, 0, 2, 128, 256, kAnyBits, kAnyCodebook, kOwnScales, 39}, kManyTokens,
              kEveryRouting, {MoePath::kWide128});
}

TEST(GpuMoeFull, MixedCodebooksWithCommonScales) {
  check_layer(kMixedCodebooks, kAll, kEveryRouting);
}

TEST(GpuMoeFull, ManyInputs) {
  check_layer(kWide, kAll, kEveryRouting);
}

TEST(GpuMoeFull, ManyExperts) {
  check_layer({"many experts", 128, 1, 8, 256, 128, 4, kMul1, kOwnScales, 36}, kAll, kEveryRouting);
}

TEST(GpuMoeFull, LargeMatrices) {
  check_layer({"large, mixed widths", 4, 1, 2, 2048, 1536, kAnyBits, kMul1, kOwnScales, 37}, kFew, 2);
}

}  // namespace
}  // namespace fairway::kernels::cuda::check
