// Looks over the shoulder of a layer's forward pass and adds what its matrices read to their sites.
#pragma once

#include <map>
#include <vector>

#include "moe/counters.h"
#include "quantize/layer_sites.h"

namespace fairway::quantize {

// Routed experts see the tokens that the router sends them, each with the square of its routing weight, which is what
// an error of the expert counts in the layer's output. For experts that few tokens reach there are moments of all
// tokens of the first windows besides.
class SiteCollector {
 public:
  SiteCollector(std::vector<InputSite>& sites, kernels::KernelContext& context);

  // Sets the observers of `counters`, which must not outlive this object.
  void attach(moe::Counters& counters);
  // From now on, all experts see all tokens too (for the moments that are lent to experts with few rows).
  void lend(bool on) { lending_ = on; }
  // Adds lent moments to sites with fewer than min_rows_per_input rows for each input.
  void settle(int min_rows_per_input);

 private:
  struct ExpertSites {
    int gate_up = -1, down = -1;  // indices of sites
  };
  void observe_layer(const moe::MoeLayerWeights& layer, const float* x, int m, int hidden,
                     std::span<const std::int32_t> ids, std::span<const float> weights);
  // Rows of x that one expert gets, with their squared weights; adds to its two sites, or to the lent moments.
  void observe_expert(const kernels::ExpertWeights& expert, const ExpertSites& sites, const float* x, int hidden,
                      const std::vector<std::int32_t>& rows, const std::vector<float>& weights, bool lent);

  std::vector<InputSite>& sites_;
  kernels::KernelContext& context_;
  std::map<const kernels::LinearWeights*, int> single_;  // matrices outside of experts; the first of each site
  std::vector<ExpertSites> routed_;
  ExpertSites always_on_;
  std::map<int, Moments> lent_;  // by index of the site
  bool lending_ = false;
};

}  // namespace fairway::quantize
