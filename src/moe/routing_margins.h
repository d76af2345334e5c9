// How near the choices of a model's routers come to other choices.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "moe/counters.h"
#include "moe/layer.h"

namespace fairway::moe {

// Watches forward passes. The margin of a row (a token at its place) is that error of a router's input, relative to its
// norm and in a random direction, at which the difference of the selection scores of an expert that was chosen and of
// one that was not is one standard deviation from changing its sign; the least of all layers and such pairs. Where
// rounding errors of that size are expected, the choice is a matter of chance, and with it everything after it.
class RoutingMargins {
 public:
  // Makes `counters` report to this, which must outlive its use.
  void watch(Counters& counters);

  // Of all rows that ran since the last call, in their order; infinity where no layer has routed experts.
  std::vector<double> take();

 private:
  // Of one router: weights [experts, hidden], and their products with each other [experts, experts].
  struct Router {
    std::vector<float> weights;
    std::vector<double> products;
  };

  void see(const MoeLayerWeights& layer, const float* x, int m, int hidden, std::span<const std::int32_t> ids);
  const Router& router_of(const MoeLayerWeights& layer, std::size_t hidden);
  double margin(const MoeLayerWeights& layer, std::span<const float> x, std::span<const std::int32_t> ids);

  std::map<const MoeLayerWeights*, Router> routers_;
  const MoeLayerWeights* first_ = nullptr;  // a new chunk of rows begins with it
  std::size_t begin_ = 0;                   // first row of the present chunk
  std::vector<double> rows_;
};

}  // namespace fairway::moe
