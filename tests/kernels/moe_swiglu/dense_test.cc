// The dense rows of moe_swiglu against the definition in double precision, for all element types and odd sizes.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "backend/cpu/features.h"
#include "codec/half.h"
#include "common/compare.h"
#include "kernels/moe_swiglu/moe_swiglu.h"
#include "kernels/trellis_band/trellis_fixture.h"

namespace fairway::kernels {
namespace {

// One dense matrix, stored at an odd address in front of a guard page, and its exact values.
struct RandomDense {
  std::vector<double> values;
  std::vector<float> bias;
  std::unique_ptr<test::GuardedBytes> bytes;
  LinearWeights weights;

  RandomDense(std::mt19937& random, int in, int out, DenseType type, bool with_bias) {
    const std::size_t count = static_cast<std::size_t>(in) * static_cast<std::size_t>(out);
    const std::size_t width = type == DenseType::kF32 ? 4 : 2;
    bytes = std::make_unique<test::GuardedBytes>(count * width + 1);
    std::vector<float> v = test::random_normal(random, count);
    for (std::size_t i = 0; i < count; ++i) {
      float value = v[i] / std::sqrt(static_cast<float>(in));
      const std::uint16_t half = codec::half_from_float(value), bfloat = codec::bfloat_from_float(value);
      if (type == DenseType::kF16) value = codec::float_from_half(half);
      if (type == DenseType::kBf16) value = codec::float_from_bfloat(bfloat);
      const void* stored = &value;
      if (type == DenseType::kF16) stored = &half;
      if (type == DenseType::kBf16) stored = &bfloat;
      std::memcpy(bytes->data() + 1 + i * width, stored, width);
      values.push_back(value);
    }
    if (with_bias) bias = test::random_normal(random, static_cast<std::size_t>(out));
    weights = {in, out, DenseMatrix{bytes->data() + 1, type, in, out, with_bias ? bias.data() : nullptr}};
  }

  std::vector<double> apply(const std::vector<double>& x) const {
    std::vector<double> y(static_cast<std::size_t>(weights.out));
    for (std::size_t n = 0; n < y.size(); ++n) {
      if (!bias.empty()) y[n] = bias[n];
      for (std::size_t k = 0; k < x.size(); ++k) y[n] += x[k] * values[n * x.size() + k];
    }
    return y;
  }
};

TEST(MoeSwigluDense, EveryRowAgreesWithTheDefinition) {
  const unsigned seed = 101;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (const DenseType type : {DenseType::kF32, DenseType::kF16, DenseType::kBf16}) {
    for (const auto& [hidden, intermediate] : {std::pair{64, 128}, std::pair{130, 200}, std::pair{33, 17}}) {
      const bool bias = intermediate == 200;
      const RandomDense gate(random, hidden, intermediate, type, bias), up(random, hidden, intermediate, type, bias),
          down(random, intermediate, hidden, type, bias);
      const ExpertWeights expert{gate.weights, up.weights, down.weights};
      const std::vector<std::int32_t> few{4}, many{0, 1, 2, 3, 4, 4, 0, 2, 1};
      const std::vector<ExpertGroup> groups{
          {&expert, few.data(), 1, 9}, {&expert, nullptr, 0, 0}, {&expert, many.data(), 9, 0}};
      const std::vector<float> x = test::random_normal(random, static_cast<std::size_t>(5 * (hidden + 2)));

      std::vector<float> expected;
      std::vector<std::int32_t> slots = many;
      slots.push_back(few[0]);
      for (const std::int32_t row : slots) {
        const float* first = x.data() + row * (hidden + 2);
        const std::vector<double> in(first, first + hidden);
        std::vector<double> g = gate.apply(in);
        const std::vector<double> u = up.apply(in);
        for (std::size_t i = 0; i < g.size(); ++i) g[i] = g[i] / (1 + std::exp(-g[i])) * u[i];
        for (const double v : down.apply(g)) expected.push_back(static_cast<float>(v));
      }
      for (const MoeSwigluRow& row : moe_swiglu_rows()) {
        if (row.info.weights != WeightKind::kDense || !can_run(row.info, backend::cpu_info().features)) continue;
        for (const int threads : {1, 3}) {
          backend::ThreadPool pool(threads);
          backend::Workspace workspace;
          KernelContext context{pool, workspace};
          std::vector<float> y = test::poison(expected.size());
          row.fn({x.data(), hidden + 2, hidden, groups, y.data()}, row.info.tile, context);
          // Three products of length k with errors of 2^-24 each and random signs, see the trellis rows.
          const double bound = 4 * (4 * std::sqrt(200.0) + 16) * std::ldexp(1.0, -24);
          EXPECT_EQ(test::compare(expected, y, hidden, {.row_relative = bound}), "") << row.info.id << " " << hidden;
        }
      }
    }
  }
}

}  // namespace
}  // namespace fairway::kernels
