// The CUDA linear layer against double precision: every path, width, codebook and remainder, one matrix and several.
// Suites that end in Full run on request only; tests/cuda_main.cc says how.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "codec/trellis.h"
#include "kernels/common/cuda/case_size.h"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/trellis_linear/cuda/linear_check.cuh"

namespace fairway::kernels::cuda::check {
namespace {

constexpr int kMul1 = static_cast<int>(codec::Codebook::kMul1);
constexpr int kAnyCodebook = -1, kAnyBits = 0;
using Counts = std::vector<int>;
const Counts kEveryWidth = by_size<Counts>({1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 3, 4, 5, 6, 7, 8}, {1, 3, 6});
const Counts kFew = by_size<Counts>({1, 2, 5, 17}, {2});
const Counts kOdd = by_size<Counts>({1, 5, 100}, {5});
const std::vector<LinearPath> kSome =
    by_size(std::vector<LinearPath>(kEveryPath), {LinearPath::kInt4, LinearPath::kHalf8});
const Counts kAll = by_size<Counts>({1, 2, 3, 5, 8, 9, 16, 17, 33, 64, 65, 100, 129, 300}, {35});
const Counts kNormRows = by_size<Counts>({1, 2, 3, 4, 5, 8, 9, 13, 16, 17, 33, 64, 100, 129, 600}, {1, 6, 9}, {6, 9});
const Counts kManyRows = by_size<Counts>({31, 33, 65, 96, 97, 128, 129, 200, 513}, {61, 105});

TEST(GpuLinear, EveryWidthOfMul1) {
  for (const int bits : kEveryWidth) {
    check_linear({"mul1, " + std::to_string(bits) + " bits",
                  256,
                  256,
                  {{128, 128, bits, kMul1, 0, false, false}},
                  10u + static_cast<unsigned>(bits)},
                 kFew);
  }
}

TEST(GpuLinear, EveryWidthOfOtherCodebooks) {
  for (const int bits : kEveryWidth) {
    check_linear({"3inst and mcg, " + std::to_string(bits) + " bits",
                  128,
                  128,
                  {{128, 128, bits, 0, 0, false, false}, {128, 128, bits, 1, 0, false, false}},
                  20u + static_cast<unsigned>(bits)},
                 kFew);
  }
}

TEST(GpuLinear, SeveralMatricesOfSeveralWidths) {
  check_linear({"four matrices, mul1",
                384,
                384,
                {{128, 128, kAnyBits, kMul1, 0, false, false},
                 {128, 97, kAnyBits, kMul1, 1, true, false},
                 {256, 193, kAnyBits, kMul1, 0, false, true},
                 {128, 126, kAnyBits, kMul1, 2, true, true}},
                31},
               kAll);
}

TEST(GpuLinear, SeveralMatricesOfSeveralCodebooks) {
  check_linear({"three matrices and codebooks",
                256,
                200,
                {{128, 128, kAnyBits, 1, 0, true, true},
                 {256, 129, kAnyBits, kMul1, 0, false, false},
                 {128, 33, kAnyBits, 0, 3, false, true}},
                32},
               kOdd);
}

// Shared by a cluster of eight.
TEST(GpuLinear, ManyInputs) {
  check_linear({"one band, 2304 inputs", 2304, 2300, {{128, 100, 3, kMul1, 0, true, false}}, 33}, kOdd);
}

// More items than CTAs run at a time: the ring and the transformed inputs go on from item to item.
TEST(GpuLinear, ManyOutputs) {
  check_linear(
      {"many bands", 384, 384, {{2560, 2500, 8, kMul1, 0, false, false}, {640, 640, 2, kMul1, 1, false, false}}, 34},
      kOdd, kSome);
}

// The paths for few weights: shares of unequal sizes, one CTA an item and clusters, every number of rows.
TEST(GpuLinear, FewRowsAndWeights) {
  const std::vector<LinearPath> few{LinearPath::kIntFew, LinearPath::kHalfFew};
  const Counts rows = by_size<Counts>({1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16}, {1, 4, 8, 13}, {4, 13});
  for (const bool norm : {false, true}) {
    check_linear({norm ? "few, norm, 17 blocks" : "few, 17 blocks",
                  17 * 128,
                  17 * 128 - 4,
                  {{128, 77, 4, kMul1, 0, true, true}},
                  60,
                  norm,
                  norm},
                 rows, few);
  }
  const int out = 128 * std::max(1, sm_count() * 3 / 5);
  check_linear({"few, a CTA an item", 256, 256, {{out, out, 2, kMul1, 0, false, false}}, 61},
               by_size<Counts>({1, 3, 8, 16}, {2}), few);
}

// Rows without padding and with it, two input scales, clusters, CTAs of many items.
TEST(GpuLinear, NormInFront) {
  check_linear({"norm, a cluster",
                640,
                640,
                {{128, 128, 3, kMul1, 0, true, false}, {256, 193, 4, kMul1, 1, false, false}},
                51,
                true,
                true},
               kNormRows);
  check_linear(
      {"norm of a part of a block", 256, 132, {{128, 128, kAnyBits, kAnyCodebook, 0, false, true}}, 52, true, false},
      kNormRows);
  check_linear({"norm, many bands",
                128,
                128,
                {{2560, 2500, 8, kMul1, 0, false, false}, {640, 640, 2, kMul1, 1, false, false}},
                53,
                true,
                true},
               kOdd, kSome);
}

// One row has an integer kernel of its own: every width, clusters with shares of unequal sizes, several inputs, CTAs of
// many items that go round the ring, with a norm and without.
TEST(GpuLinear, OneRow) {
  const std::vector<LinearPath> integers{LinearPath::kInt4};
  for (const int bits : kEveryWidth) {
    check_linear({"one row, " + std::to_string(bits) + " bits",
                  384,
                  384,
                  {{128, 128, bits, kMul1, 0, false, false}},
                  70u + static_cast<unsigned>(bits)},
                 {1}, integers);
  }
  for (const bool norm : {false, true}) {
    check_linear({norm ? "one row, norm, a cluster" : "one row, a cluster",
                  17 * 128,
                  17 * 128 - 4,
                  {{128, 77, 3, kMul1, 0, true, true}, {128, 128, 5, kMul1, 1, false, false}},
                  80,
                  norm,
                  norm},
                 {1}, integers);
    check_linear({norm ? "one row, norm, many bands" : "one row, many bands",
                  256,
                  256,
                  {{2560, 2500, 6, kMul1, 0, true, false},
                   {2560, 2560, 4, kMul1, 1, false, true},
                   {640, 640, 2, kMul1, 0, false, false}},
                  81,
                  norm,
                  false},
                 {1}, integers);
  }
}

// Segments of every number of columns of the wide path, bands without a neighbour, clusters and CTAs of many items.
TEST(GpuLinear, ManyRows) {
  check_linear({"many rows, two matrices",
                256,
                256,
                {{384, 380, 3, kMul1, 0, true, true}, {128, 128, kAnyBits, kAnyCodebook, 1, false, false}},
                35},
               kManyRows, {LinearPath::kWide128});
  check_linear({"many rows, many bands", 128, 128, {{2304, 2304, 4, kMul1, 0, false, false}}, 36}, kOdd,
               {LinearPath::kWide128});
}

TEST(GpuLinearFull, ManyInputsAndOutputs) {
  check_linear({"5120 inputs", 5120, 5120, {{2048, 2048, 3, kMul1, 0, false, true}}, 41}, kAll);
  check_linear({"vocabulary", 2048, 2048, {{40960, 40900, 6, kMul1, 0, false, false}}, 42}, kFew);
  check_linear({"q, k and v",
                2048,
                2048,
                {{4096, 4096, 4, kAnyCodebook, 0, true, false},
                 {512, 512, 6, kAnyCodebook, 0, true, false},
                 {512, 512, 5, kAnyCodebook, 0, true, false}},
                43},
               kAll);
  check_linear({"norm, 2048 inputs",
                2048,
                2048,
                {{768, 768, 3, kMul1, 0, false, false}, {640, 576, 3, kMul1, 1, false, false}},
                44,
                true,
                true},
               kAll);
  check_linear({"norm, vocabulary", 2048, 2048, {{40960, 40900, 6, kMul1, 0, false, false}}, 45, true, true}, kFew);
}

}  // namespace
}  // namespace fairway::kernels::cuda::check
