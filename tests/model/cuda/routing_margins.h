// How near the choices of a model's routers come to other choices.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "kernels/dense_linear/dense_linear.h"
#include "moe/counters.h"
#include "moe/layer.h"

namespace fairway::test {

// Watches a forward pass of one chunk. The margin of a row is that error of a router's input, relative to its norm and
// in a random direction, at which the difference of the selection scores of an expert that was chosen and of one that
// was not is one standard deviation from changing its sign; the least of all layers and pairs of experts.
class RoutingMargins {
 public:
  void watch(moe::Counters& counters) {
    counters.observer = [this](const moe::MoeLayerWeights& layer, const float* x, int m, int hidden,
                               std::span<const std::int32_t> ids, std::span<const float>) {
      rows_.resize(static_cast<std::size_t>(m), std::numeric_limits<double>::infinity());
      if (layer.experts.empty()) return;
      const std::size_t top_k = static_cast<std::size_t>(layer.route.top_k), width = static_cast<std::size_t>(hidden);
      for (std::size_t r = 0; r < rows_.size(); ++r) {
        rows_[r] = std::min(rows_[r], margin(layer, {x + r * width, width}, ids.subspan(r * top_k, top_k)));
      }
    };
  }

  const std::vector<double>& rows() const { return rows_; }

 private:
  // The selection score of an expert, and its gradient by x.
  struct Score {
    double value;
    std::vector<double> gradient;
  };

  static Score score_of(const moe::MoeLayerWeights& layer, std::span<const float> x, int expert) {
    std::vector<float> weights(x.size());
    kernels::read_dense_row(layer.router.dense(), expert, weights.data());
    double logit = 0;
    for (std::size_t i = 0; i < x.size(); ++i) logit += static_cast<double>(weights[i]) * x[i];
    Score s{logit, {weights.begin(), weights.end()}};
    if (layer.route.kind == kernels::RouteKind::kSigmoidBiasTopK) {
      s.value = 1 / (1 + std::exp(-logit));
      for (double& g : s.gradient) g *= s.value * (1 - s.value);
      if (!layer.selection_bias.empty()) s.value += layer.selection_bias[static_cast<std::size_t>(expert)];
    }
    return s;
  }

  static double margin(const moe::MoeLayerWeights& layer, std::span<const float> x, std::span<const std::int32_t> ids) {
    std::vector<Score> chosen, others;
    for (int e = 0; e < layer.route.experts; ++e) {
      const bool is_chosen = std::find(ids.begin(), ids.end(), e) != ids.end();
      (is_chosen ? chosen : others).push_back(score_of(layer, x, e));
    }
    double norm = 0, least = std::numeric_limits<double>::infinity();
    for (const float v : x) norm += static_cast<double>(v) * v;
    for (const Score& a : chosen) {
      for (const Score& b : others) {
        double slope = 0;
        for (std::size_t i = 0; i < x.size(); ++i) slope += std::pow(a.gradient[i] - b.gradient[i], 2);
        least = std::min(least, (a.value - b.value) / std::sqrt(slope * norm / static_cast<double>(x.size())));
      }
    }
    return least;
  }

  std::vector<double> rows_;
};

}  // namespace fairway::test
