// The dense rows of moe_swiglu against the definition in double precision, for all element types and odd sizes.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "backend/cpu/features.h"
#include "common/compare.h"
#include "kernels/moe_swiglu/moe_swiglu.h"
#include "kernels/trellis_band/trellis_fixture.h"

namespace fairway::kernels {
namespace {

std::vector<double> multiply(const test::RandomDense& matrix, const std::vector<double>& x) {
  std::vector<double> y(static_cast<std::size_t>(matrix.weights.out));
  for (std::size_t n = 0; n < y.size(); ++n) {
    if (!matrix.bias.empty()) y[n] = matrix.bias[n];
    for (std::size_t k = 0; k < x.size(); ++k) y[n] += x[k] * matrix.values[n * x.size() + k];
  }
  return y;
}

TEST(MoeSwigluDense, EveryRowAgreesWithTheDefinition) {
  const unsigned seed = 101;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (const DenseType type : {DenseType::kF32, DenseType::kF16, DenseType::kBf16}) {
    for (const auto& [hidden, intermediate] : {std::pair{64, 128}, std::pair{130, 200}, std::pair{33, 17}}) {
      const bool bias = intermediate == 200;
      const test::RandomDense gate(random, hidden, intermediate, type, bias),
          up(random, hidden, intermediate, type, bias), down(random, intermediate, hidden, type, bias);
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
        std::vector<double> g = multiply(gate, in);
        const std::vector<double> u = multiply(up, in);
        for (std::size_t i = 0; i < g.size(); ++i) g[i] = g[i] / (1 + std::exp(-g[i])) * u[i];
        for (const double v : multiply(down, g)) expected.push_back(static_cast<float>(v));
      }
      for (const MoeSwigluRow& row : moe_swiglu_rows()) {
        if (row.info.weights != WeightKind::kDense || !can_run(row.info, backend::cpu_info().features)) continue;
        for (const int threads : {1, 3}) {
          backend::ThreadPool pool(threads);
          backend::Workspace workspace;
          KernelContext context{pool, workspace};
          std::vector<float> y = test::poison(expected.size());
          row.fn({x.data(), hidden + 2, hidden, groups, y.data()}, row.info.tile, context);
          EXPECT_EQ(test::compare(expected, y, hidden, verify::expert_bound(row.info, 200)), "")
              << row.info.id << " " << hidden;
        }
      }
    }
  }
}

}  // namespace
}  // namespace fairway::kernels
