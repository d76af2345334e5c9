// kv_b_proj on the device against double precision, its 8-bit form against the matrix, and all of multi-head latent
// attention against the reference of the CPU.
#include "kernels/attention_mla/cuda/mla_projection.cuh"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "codec/float8.h"
#include "codec/half.h"
#include "common/machine.h"
#include "fairway/error.h"
#include "kernels/attention_mla/bodies.h"
#include "kernels/attention_mla/cuda/projection_problem.cuh"
#include "kernels/attention_mla/cuda/quantize_rows.h"
#include "kernels/common/cuda/attend.cuh"
#include "kernels/common/cuda/attend_problem.cuh"
#include "kernels/common/cuda/case_size.h"
#include "kernels/common/cuda/device_array.cuh"
#include "kernels/moe_swiglu/cuda/problem.cuh"
#include "kernels/verify/compare.h"

namespace fairway::kernels::cuda::check {
namespace {

// |result - reference| <= 1e-3 |reference| for a row and head: the inputs of the product and its result are rounded to
// halves, 2^-12 relative each at most on average.
constexpr double kBound = 1e-3;

constexpr Shape kGlm{"GLM", 20, 192, 64, 256, 512}, kDemo{"demo", 8, 64, 32, 64, 128};
constexpr Shape kOdd{"odd", 3, 80, 16, 48, 192}, kSmall{"small", 1, 16, 16, 16, 64};
const Shape kLarge = by_size(kGlm, {"two heads of GLM", 2, 192, 64, 256, 512});
const std::vector<int> kRowCounts =
    by_size<std::vector<int>>({1, 2, 7, 8, 9, 16, 31, 64, 65, 128, 129, 300, 1000}, {1, 9, 65});
const int kLongStart = by_size(5000, 764);

// One head's result of a row.
void absorb_reference(const Projection& p, int head, const float* q, float* out) {
  std::vector<double> sum(static_cast<std::size_t>(p.shape.latent), 0.0);
  for (int n = 0; n < p.shape.nope; ++n) {
    for (int c = 0; c < p.shape.latent; ++c) sum[c] += static_cast<double>(q[n]) * p.row(head, n)[c];
  }
  for (int c = 0; c < p.shape.latent; ++c) out[c] = static_cast<float>(sum[c]);
}
void unfold_reference(const Projection& p, int head, const float* mixed, float* out) {
  for (int j = 0; j < p.shape.v; ++j) {
    double sum = 0;
    for (int c = 0; c < p.shape.latent; ++c) sum += static_cast<double>(mixed[c]) * p.row(head, p.shape.nope + j)[c];
    out[j] = static_cast<float>(sum);
  }
}

// Columns [0, width) of rows that are `stride` apart; what is behind them must still be poison.
std::vector<float> take(const std::vector<float>& all, int rows, int width, int stride) {
  std::vector<float> taken;
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < stride; ++c) {
      const float v = all[static_cast<std::size_t>(r) * stride + c];
      if (c < width) {
        taken.push_back(v);
      } else {
        EXPECT_TRUE(std::isnan(v)) << "row " << r << ", column " << c << " was written";
      }
    }
  }
  return taken;
}

void check_absorb(const Projection& p, Random& random, int rows, float size) {
  const Shape& s = p.shape;
  const int stride = s.latent + s.rope;
  const std::vector<float> q = random_halves(random, static_cast<std::size_t>(rows) * s.heads * s.nope, size);
  const DeviceArray<__half> q_device(to_halves(q));
  std::vector<float> expected(static_cast<std::size_t>(rows) * s.heads * s.latent), first;
  for (int i = 0; i < rows * s.heads; ++i) {
    absorb_reference(p, i % s.heads, q.data() + static_cast<std::size_t>(i) * s.nope,
                     expected.data() + static_cast<std::size_t>(i) * s.latent);
  }
  DeviceArray<__half> out(static_cast<std::size_t>(rows) * s.heads * stride);
  for (const int poison : poisons()) {
    out.fill(poison);
    mla_absorb(p.device(), q_device.get(), rows, out.get(), stride, nullptr);
    const std::vector<float> actual = take(to_floats(out.values()), rows * s.heads, s.latent, stride);
    EXPECT_EQ(verify::compare(expected, actual, s.latent, {.row_relative = kBound}), "")
        << s.name << ", absorb, " << rows << " rows";
    if (!first.empty()) {
      EXPECT_EQ(verify::compare_exact(first, actual), "") << "two runs";
    }
    first = actual;
  }
  fmt::print("{} absorb {} rows: {:.1e}\n", s.name, rows, verify::worst_row_error(expected, first, s.latent));
}

void check_unfold(const Projection& p, Random& random, int rows, float size) {
  const Shape& s = p.shape;
  const int width = s.heads * s.v, ldo = width + 8;
  const std::vector<float> mixed = random_halves(random, static_cast<std::size_t>(rows) * s.heads * s.latent, size);
  const DeviceArray<__half> mixed_device(to_halves(mixed));
  std::vector<float> expected(static_cast<std::size_t>(rows) * width), first;
  for (int i = 0; i < rows * s.heads; ++i) {
    unfold_reference(p, i % s.heads, mixed.data() + static_cast<std::size_t>(i) * s.latent,
                     expected.data() + static_cast<std::size_t>(i) * s.v);
  }
  DeviceArray<__half> out(static_cast<std::size_t>(rows) * ldo);
  for (const int poison : poisons()) {
    out.fill(poison);
    mla_unfold(p.device(), mixed_device.get(), rows, out.get(), ldo, nullptr);
    const std::vector<float> actual = take(to_floats(out.values()), rows, width, ldo);
    EXPECT_EQ(verify::compare(expected, actual, s.v, {.row_relative = kBound}), "")
        << s.name << ", unfold, " << rows << " rows";
    if (!first.empty()) {
      EXPECT_EQ(verify::compare_exact(first, actual), "") << "two runs";
    }
    first = actual;
  }
  fmt::print("{} unfold {} rows: {:.1e}\n", s.name, rows, verify::worst_row_error(expected, first, s.v));
}

void check_projection(const Shape& shape, const std::vector<int>& row_counts, float weight_size, float size,
                      std::uint64_t seed) {
  for (const UpWeight type : {UpWeight::kHalf, UpWeight::kByte}) {
    Random random(seed);
    const Projection p(shape, random, weight_size, type);
    // In the emulator less of bytes, which take longer.
    const std::vector<int> fewer{row_counts.front(), row_counts.back()};
    for (const int rows : type == UpWeight::kHalf ? row_counts : by_size(row_counts, fewer)) {
      check_absorb(p, random, rows, size);
      check_unfold(p, random, rows, size);
    }
  }
}

TEST(GpuMlaProjection, IsTheProductOfItsMatrix) {
  check_projection(kLarge, {1, 66}, 0.05f, 1.0f, 1);
  check_projection(kDemo, kRowCounts, 0.05f, 1.0f, 2);
  check_projection(kOdd, kRowCounts, 0.05f, 1.0f, 3);
  check_projection(kSmall, {8, 40, 131}, 0.05f, 1.0f, 4);
}

// Scales far from 1: q times scale is no normal half, nor are small weights.
TEST(GpuMlaProjection, SmallAndLargeWeights) {
  check_projection(kDemo, {3, 66}, 1e-5f, 100.0f, 5);
  check_projection(kDemo, {3, 66}, 100.0f, 0.01f, 6);
}

TEST(GpuMlaProjection, WhatIsOutOfRangeIsRefused) {
  Random random(7);
  const Projection p(kSmall, random, 1.0f);
  DeviceArray<__half> x(1024), y(1024);
  const auto refuses = [&](MlaUpProjection up, int rows, int stride) {
    EXPECT_THROW(mla_absorb(up, x.get(), rows, y.get(), stride, nullptr), Error);
    EXPECT_THROW(mla_unfold(up, x.get(), rows, y.get(), stride, nullptr), Error);
  };
  MlaUpProjection up = p.device();
  refuses(up, 0, 512);
  refuses(up, 1, 12);
  up.latent = 576;
  refuses(up, 1, 1024);
  up = p.device(), up.nope = 264;
  refuses(up, 1, 512);
  up = p.device(), up.v = 24;
  refuses(up, 1, 512);
}

// The error that rounding to 8 bits adds. Uniform in a step of max / 127: for 512 normally distributed weights, whose
// largest is about 3.1 standard deviations, 3.1 / 127 / sqrt(12) = 0.7 % of the row's norm.
TEST(MlaProjection, EightBitsOfARow) {
  Random random(8);
  constexpr int kRows = 200, kColumns = 512;
  std::vector<float> matrix(kRows * kColumns), back;
  for (float& v : matrix) v = 0.02f * random.normal();
  std::fill_n(matrix.begin(), kColumns, 0.0f);
  matrix[kColumns] = 1e-40f, std::fill_n(matrix.begin() + kColumns + 1, kColumns - 1, 0.0f);
  std::vector<signed char> weights(matrix.size());
  std::vector<float> scales(kRows);
  quantize_rows_int8(matrix.data(), kRows, kColumns, weights.data(), scales.data());
  for (std::size_t i = 0; i < matrix.size(); ++i) {
    back.push_back(scales[i / kColumns] * weights[i]);
    ASSERT_LE(std::abs(back[i] - matrix[i]), scales[i / kColumns] * 0.5001f + 1e-42f) << i;
  }
  const std::span<const float> normal(matrix.data() + 2 * kColumns, matrix.size() - 2 * kColumns);
  const std::span<const float> stored(back.data() + 2 * kColumns, normal.size());
  EXPECT_EQ(verify::compare(normal, stored, kColumns, {.row_relative = 0.011}), "");
  fmt::print("worst row: {:.2e}\n", verify::worst_row_error(normal, stored, kColumns));
  EXPECT_EQ(scales[0], 0.0f);
}

// Mean square of the error of products with vectors of the moments, weighed over all rows.
double product_error(const std::vector<float>& matrix, const std::vector<signed char>& weights,
                     const std::vector<float>& scales, const std::vector<double>& moments, int columns) {
  double sum = 0;
  for (std::size_t r = 0; r < scales.size(); ++r) {
    std::vector<double> error;
    for (int c = 0; c < columns; ++c) {
      const std::size_t at = r * static_cast<std::size_t>(columns) + static_cast<std::size_t>(c);
      error.push_back(static_cast<double>(matrix[at]) - static_cast<double>(scales[r]) * weights[at]);
    }
    for (int i = 0; i < columns; ++i) {
      for (int j = 0; j < columns; ++j) sum += error[i] * moments[static_cast<std::size_t>(i * columns + j)] * error[j];
    }
  }
  return sum;
}

// Vectors that lie near a space of fewer dimensions: what is rounded in one column is made good by others.
TEST(MlaProjection, EightBitsForKnownVectors) {
  Random random(9);
  constexpr int kRows = 37, kColumns = 128, kSpace = 32;
  std::vector<float> matrix(kRows * kColumns);
  for (float& v : matrix) v = 0.02f * random.normal();
  std::fill_n(matrix.begin(), kColumns, 0.0f);
  std::vector<double> moments(kColumns * kColumns, 0.0);
  for (int k = 0; k < kSpace; ++k) {
    std::vector<double> direction;
    for (int c = 0; c < kColumns; ++c) direction.push_back(random.normal());
    for (int i = 0; i < kColumns; ++i) {
      for (int j = 0; j < kColumns; ++j) moments[i * kColumns + j] += direction[i] * direction[j];
    }
  }
  const RoundingFeedback feedback(moments, kColumns);
  std::vector<signed char> plain(matrix.size()), weights(matrix.size()), in_parts(matrix.size());
  std::vector<float> scales(kRows), plain_scales(kRows), part_scales(kRows);
  quantize_rows_int8(matrix.data(), kRows, kColumns, plain.data(), plain_scales.data());
  quantize_rows_int8(matrix.data(), kRows, feedback, weights.data(), scales.data());
  EXPECT_EQ(scales, plain_scales);
  const double nearest = product_error(matrix, plain, scales, moments, kColumns);
  EXPECT_LE(product_error(matrix, weights, scales, moments, kColumns), 0.25 * nearest);
  for (int c = 0; c < kColumns; ++c) EXPECT_EQ(weights[c], 0);
  for (int begin = 0; begin < kRows; begin += 5) {
    const int count = std::min(5, kRows - begin);
    quantize_rows_int8(&matrix[begin * kColumns], count, feedback, &in_parts[begin * kColumns], &part_scales[begin]);
  }
  EXPECT_EQ(in_parts, weights);
  // Vectors of which nothing is known, or which are the same in all directions, leave the nearest weights.
  for (const double known : {0.0, 1.0}) {
    std::fill(moments.begin(), moments.end(), 0.0);
    for (int c = 0; c < kColumns; ++c) moments[c * kColumns + c] = known;
    quantize_rows_int8(matrix.data(), kRows, RoundingFeedback(moments, kColumns), weights.data(), scales.data());
    EXPECT_EQ(weights, plain) << known;
  }
}

// Absorb, attend, unfold: `rows` of a sequence from `start` on, against the absorbed reference of the CPU with the same
// kv_b_proj and the same cache.
void check_attention(const Shape& s, int start, int rows, bool one_sequence, CacheType type, std::uint64_t seed) {
  Random random(seed);
  const Projection p(s, random, 0.08f, seed % 2 == 0 ? UpWeight::kHalf : UpWeight::kByte);
  const int width = s.latent + s.rope, positions = start + rows, queries = rows * s.heads;
  std::vector<float> cache = random_halves(random, static_cast<std::size_t>(positions) * width, 1.0f);
  std::vector<std::uint8_t> bytes;
  if (type == CacheType::kE4m3) {
    for (float& v : cache) {
      bytes.push_back(nearest_e4m3(v));
      v = codec::float_from_e4m3(bytes.back());
    }
  } else {
    const std::vector<__half> halves = to_halves(cache);
    const auto* const from = reinterpret_cast<const std::uint8_t*>(halves.data());
    bytes.assign(from, from + halves.size() * sizeof(__half));
  }
  const std::vector<float> q = random_halves(random, static_cast<std::size_t>(queries) * (s.nope + s.rope), 1.0f);
  std::vector<float> q_nope, q_latent(static_cast<std::size_t>(queries) * width, 0.0f);
  for (int i = 0; i < queries; ++i) {
    const float* const from = q.data() + static_cast<std::size_t>(i) * (s.nope + s.rope);
    q_nope.insert(q_nope.end(), from, from + s.nope);
    std::copy_n(from + s.nope, s.rope, q_latent.begin() + static_cast<std::ptrdiff_t>(i) * width + s.latent);
  }
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.nope + s.rope)));

  std::vector<float> expected(static_cast<std::size_t>(queries) * s.v);
  const DenseMatrix kv_b{reinterpret_cast<const std::uint8_t*>(p.matrix.data()), DenseType::kF32, s.latent,
                         s.heads * (s.nope + s.v), nullptr};
  test::Machine machine;
  mla_absorbed_ref({q.data(), cache.data(), width, &kv_b, s.heads, s.nope, s.rope, s.v, s.latent, start, rows, scale,
                    expected.data()},
                   machine.context);

  const DeviceArray<std::uint8_t> cache_device(bytes);
  const DeviceArray<__half> nope_device(to_halves(q_nope));
  const DeviceArray<__half> latent_device(to_halves(q_latent));
  DeviceArray<__half> mixed(static_cast<std::size_t>(queries) * s.latent), out(expected.size());
  std::vector<int> position(static_cast<std::size_t>(rows));
  std::iota(position.begin(), position.end(), start);
  const DeviceArray<int> sequence_device(std::vector<int>(static_cast<std::size_t>(rows), 0));
  const DeviceArray<int> position_device(position);
  AttendCall call{};
  call.q = latent_device.get();
  call.cache = {cache_device.get(), type, width, positions};
  call.heads = s.heads, call.kv_heads = 1, call.key_dim = width, call.value_dim = s.latent;
  call.rows = {sequence_device.get(), position_device.get(), rows};
  call.one_sequence = one_sequence, call.max_context = positions, call.scale = scale, call.out = mixed.get();
  DeviceArray<unsigned char> workspace(attend_workspace_bytes(call));
  mla_absorb(p.device(), nope_device.get(), rows, latent_device.get(), width, nullptr);
  for (const bool merged : {true, false}) {
    workspace.fill(0xFF), mixed.fill(0xFF), out.fill(0xFF);
    if (merged) {
      mla_attend_unfold(p.device(), call, workspace.get(), out.get(), s.heads * s.v, nullptr);
    } else {
      attend(call, workspace.get(), nullptr);
      mla_unfold(p.device(), mixed.get(), rows, out.get(), s.heads * s.v, nullptr);
    }
    const std::vector<float> actual = to_floats(out.values());
    EXPECT_EQ(verify::compare(expected, actual, s.v, {.row_relative = 2e-3}), "") << s.name << ", " << rows << " rows";
    fmt::print("{} attention, {} rows, {} on: {:.1e}\n", s.name, rows, start,
               verify::worst_row_error(expected, actual, s.v));
  }
}

TEST(GpuMlaProjection, AroundAttentionItIsWhatTheCpuComputes) {
  constexpr CacheType kHalf = CacheType::kHalf, kE4m3 = CacheType::kE4m3;
  check_attention(kDemo, 70, 3, false, kHalf, 10);
  check_attention(kDemo, 10, 9, true, kHalf, 11);
  check_attention(kLarge, 100, 1, false, kHalf, 12);
  check_attention(kOdd, 300, 1, true, kHalf, 13);
  check_attention(kOdd, 127, 2, false, kE4m3, 14);
  check_attention(kDemo, 125, 4, false, kHalf, 15);
  check_attention(kSmall, 0, 5, false, kHalf, 16);
  check_attention(kDemo, 700, 1, false, kE4m3, 17);
  // More splits of a row than threads for its values.
  check_attention(kLarge, kLongStart, 4, false, kE4m3, 18);
  check_attention(kDemo, 700, 2, false, kHalf, 19);
}

}  // namespace
}  // namespace fairway::kernels::cuda::check
