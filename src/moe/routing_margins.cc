// Distances of the routers' inputs to the planes where two experts change places.
#include "moe/routing_margins.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/dense_linear/dense_linear.h"

namespace fairway::moe {
namespace {

double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

// The selection score of an expert, and its derivative by the logit.
struct Score {
  double value, slope;
};

Score score_of(const MoeLayerWeights& layer, double logit, std::size_t expert) {
  if (layer.route.kind == kernels::RouteKind::kSoftmaxTopK && layer.selection_bias.empty()) return {logit, 1};
  const double value = 1 / (1 + std::exp(-logit));
  return {value + (layer.selection_bias.empty() ? 0.0 : static_cast<double>(layer.selection_bias[expert])),
          value * (1 - value)};
}

}  // namespace

void RoutingMargins::watch(Counters& counters) {
  counters.observer = [this](const MoeLayerWeights& layer, const float* x, int m, int hidden,
                             std::span<const std::int32_t> ids,
                             std::span<const float>) { see(layer, x, m, hidden, ids); };
}

std::vector<double> RoutingMargins::take() {
  std::vector<double> rows;
  rows.swap(rows_);
  first_ = nullptr;
  return rows;
}

void RoutingMargins::see(const MoeLayerWeights& layer, const float* x, int m, int hidden,
                         std::span<const std::int32_t> ids) {
  if (first_ == nullptr) first_ = &layer;
  if (first_ == &layer) {
    begin_ = rows_.size();
    rows_.resize(begin_ + static_cast<std::size_t>(m), std::numeric_limits<double>::infinity());
  }
  if (layer.experts.empty()) return;
  const std::size_t width = static_cast<std::size_t>(hidden), top_k = static_cast<std::size_t>(layer.route.top_k);
  for (std::size_t r = 0; r < static_cast<std::size_t>(m); ++r) {
    double& row = rows_[begin_ + r];
    row = std::min(row, margin(layer, {x + r * width, width}, ids.subspan(r * top_k, top_k)));
  }
}

const RoutingMargins::Router& RoutingMargins::router_of(const MoeLayerWeights& layer, std::size_t hidden) {
  Router& router = routers_[&layer];
  if (!router.weights.empty()) return router;
  const std::size_t experts = static_cast<std::size_t>(layer.route.experts);
  router.weights.resize(experts * hidden);
  const auto row = [&](std::size_t e) { return std::span(router.weights).subspan(e * hidden, hidden); };
  for (std::size_t e = 0; e < experts; ++e) {
    kernels::read_dense_row(layer.router.dense(), static_cast<std::int64_t>(e), row(e).data());
  }
  for (std::size_t a = 0; a < experts; ++a) {
    for (std::size_t b = 0; b < experts; ++b) router.products.push_back(dot(row(a), row(b)));
  }
  return router;
}

double RoutingMargins::margin(const MoeLayerWeights& layer, std::span<const float> x,
                              std::span<const std::int32_t> ids) {
  const Router& router = router_of(layer, x.size());
  const std::size_t experts = static_cast<std::size_t>(layer.route.experts);
  std::vector<Score> scores;
  for (std::size_t e = 0; e < experts; ++e) {
    scores.push_back(score_of(layer, dot(std::span(router.weights).subspan(e * x.size(), x.size()), x), e));
  }
  std::vector<bool> chosen(experts, false);
  for (const std::int32_t id : ids) chosen[static_cast<std::size_t>(id)] = true;
  const double square = dot(x, x) / static_cast<double>(x.size());
  double least = std::numeric_limits<double>::infinity();
  for (const std::int32_t id : ids) {
    const std::size_t a = static_cast<std::size_t>(id);
    for (std::size_t b = 0; b < experts; ++b) {
      if (chosen[b]) continue;
      const double u = scores[a].slope, v = scores[b].slope;
      const double slope = u * u * router.products[a * experts + a] + v * v * router.products[b * experts + b] -
                           2 * u * v * router.products[a * experts + b];
      least = std::min(least, (scores[a].value - scores[b].value) / std::sqrt(std::max(slope, 0.0) * square));
    }
  }
  return least;
}

}  // namespace fairway::moe
