// Margins of routers: the changes of their inputs that change their choices.
#include "moe/routing_margins.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace fairway::moe {
namespace {

constexpr int kExperts = 8, kHidden = 64, kTopK = 3;

struct Layer {
  std::vector<float> weights;
  MoeLayerWeights layer;

  explicit Layer(kernels::RouteKind kind, bool biased, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    weights.resize(kExperts * kHidden);
    for (float& w : weights) w = normal(random) / 8;
    kernels::DenseMatrix matrix{};
    matrix.data = reinterpret_cast<const std::uint8_t*>(weights.data());
    matrix.type = kernels::DenseType::kF32;
    matrix.in = kHidden;
    matrix.out = kExperts;
    layer.router.in = kHidden;
    layer.router.out = kExperts;
    layer.router.matrix = matrix;
    layer.experts.resize(kExperts);
    layer.route = {kind, kExperts, kTopK, true, 1.0f, nullptr};
    if (biased) {
      for (int e = 0; e < kExperts; ++e) layer.selection_bias.push_back(0.1f * normal(random));
    }
  }

  std::vector<std::int32_t> choose(const std::vector<float>& x) const {
    std::vector<float> logits(kExperts, 0.0f), chosen_weights(kTopK);
    for (int e = 0; e < kExperts; ++e) {
      for (int i = 0; i < kHidden; ++i) logits[e] += weights[static_cast<std::size_t>(e * kHidden + i)] * x[i];
    }
    std::vector<std::int32_t> ids(kTopK);
    kernels::RouteParams params = layer.route;
    if (!layer.selection_bias.empty()) params.selection_bias = layer.selection_bias.data();
    kernels::route(logits.data(), 1, params, ids.data(), chosen_weights.data());
    return ids;
  }
};

// Random errors as large as the margin hardly ever change the choice where that takes several standard deviations, and
// often where it takes one.
TEST(RoutingMargins, SayWhichErrorsChangeTheChoice) {
  for (const auto kind : {kernels::RouteKind::kSoftmaxTopK, kernels::RouteKind::kSigmoidBiasTopK}) {
    const Layer router(kind, kind == kernels::RouteKind::kSigmoidBiasTopK, 5);
    std::mt19937 random(6);
    std::normal_distribution<float> normal;
    int small_changed = 0, large_changed = 0, calls = 0;
    for (int row = 0; row < 200; ++row) {
      std::vector<float> x(kHidden);
      for (float& v : x) v = normal(random);
      RoutingMargins margins;
      Counters counters;
      margins.watch(counters);
      const std::vector<std::int32_t> ids = router.choose(x);
      counters.observer(router.layer, x.data(), 1, kHidden, ids, {});
      const std::vector<double> taken = margins.take();
      ASSERT_EQ(taken.size(), 1u);
      double norm = 0;
      for (const float v : x) norm += static_cast<double>(v) * v;
      const auto changed = [&](double relative) {
        std::vector<float> near = x;
        const double step = relative * std::sqrt(norm / kHidden);
        for (float& v : near) v += static_cast<float>(step) * normal(random);
        std::vector<std::int32_t> now = router.choose(near), before = ids;
        std::sort(now.begin(), now.end());
        std::sort(before.begin(), before.end());
        return now != before;
      };
      small_changed += changed(taken[0] / 4);
      large_changed += changed(taken[0]);
      ++calls;
    }
    EXPECT_LE(small_changed, calls / 100);
    EXPECT_GE(large_changed, calls / 10);
  }
}

TEST(RoutingMargins, TheLeastOfAllLayersForEachRowOfEachChunk) {
  const Layer first(kernels::RouteKind::kSoftmaxTopK, false, 1), second(kernels::RouteKind::kSoftmaxTopK, false, 2);
  MoeLayerWeights dense;
  std::vector<float> x(2 * kHidden);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 7) - 3.0f + (i < kHidden ? 0.1f : 0.0f);
  std::vector<std::int32_t> ids[2];
  for (const auto& [layer, to] : {std::pair(&first, &ids[0]), std::pair(&second, &ids[1])}) {
    for (int r = 0; r < 2; ++r) {
      const auto chosen = layer->choose({x.begin() + r * kHidden, x.begin() + (r + 1) * kHidden});
      to->insert(to->end(), chosen.begin(), chosen.end());
    }
  }
  RoutingMargins margins;
  Counters counters;
  margins.watch(counters);
  const auto run = [&](bool with_first, bool with_second) {
    counters.observer(dense, x.data(), 2, kHidden, {}, {});
    if (with_first) counters.observer(first.layer, x.data(), 2, kHidden, ids[0], {});
    if (with_second) counters.observer(second.layer, x.data(), 2, kHidden, ids[1], {});
  };
  run(true, false);
  const std::vector<double> of_first = margins.take();
  run(false, true);
  const std::vector<double> of_second = margins.take();
  run(true, true);
  run(false, false);
  const std::vector<double> both = margins.take();
  ASSERT_EQ(both.size(), 4u);
  for (std::size_t r = 0; r < 2; ++r) {
    EXPECT_EQ(both[r], std::min(of_first[r], of_second[r]));
    EXPECT_EQ(both[2 + r], std::numeric_limits<double>::infinity());
  }
  EXPECT_TRUE(margins.take().empty());
}

}  // namespace
}  // namespace fairway::moe
