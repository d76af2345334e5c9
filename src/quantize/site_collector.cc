// Single matrices are observed by their address; experts are run once more for what their down projections read.
#include "quantize/site_collector.h"

#include <algorithm>
#include <cmath>

#include "quantize/matmul.h"

namespace fairway::quantize {

SiteCollector::SiteCollector(std::vector<InputSite>& sites, kernels::KernelContext& context)
    : sites_(sites), context_(context) {
  for (int i = 0; i < static_cast<int>(sites.size()); ++i) {
    const InputSite& site = sites[static_cast<std::size_t>(i)];
    const SiteMatrix& first = site.matrices.front();
    const bool is_down = first.part == SitePart::kDown;
    if (!is_down && first.part != SitePart::kGate) {
      single_[first.weights] = i;
      continue;
    }
    if (site.expert >= static_cast<int>(routed_.size())) routed_.resize(static_cast<std::size_t>(site.expert) + 1);
    ExpertSites& expert = site.expert >= 0 ? routed_[static_cast<std::size_t>(site.expert)] : always_on_;
    (is_down ? expert.down : expert.gate_up) = i;
  }
}

void SiteCollector::attach(moe::Counters& counters) {
  counters.linear_observer = [this](const kernels::LinearWeights& weights, const float* x, std::int64_t ldx, int m) {
    const auto found = single_.find(&weights);
    if (found == single_.end()) return;
    InputSite& site = sites_[static_cast<std::size_t>(found->second)];
    site.moments.add(x, ldx, nullptr, nullptr, m, context_);
    site.rows += m;
  };
  counters.observer = [this](const moe::MoeLayerWeights& layer, const float* x, int m, int hidden,
                             std::span<const std::int32_t> ids,
                             std::span<const float> weights) { observe_layer(layer, x, m, hidden, ids, weights); };
}

void SiteCollector::observe_layer(const moe::MoeLayerWeights& layer, const float* x, int m, int hidden,
                                  std::span<const std::int32_t> ids, std::span<const float> weights) {
  std::vector<std::vector<std::int32_t>> rows(layer.experts.size());
  std::vector<std::vector<float>> squares(layer.experts.size());
  const std::size_t top_k = ids.size() / static_cast<std::size_t>(m);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::size_t e = static_cast<std::size_t>(ids[i]);
    rows[e].push_back(static_cast<std::int32_t>(i / top_k));
    squares[e].push_back(weights[i] * weights[i]);
  }
  for (std::size_t e = 0; e < rows.size(); ++e) {
    observe_expert(layer.experts[e], routed_[e], x, hidden, rows[e], squares[e], /*lent=*/false);
  }
  std::vector<std::int32_t> all(static_cast<std::size_t>(m));
  for (int i = 0; i < m; ++i) all[static_cast<std::size_t>(i)] = i;
  const std::vector<float> ones(all.size(), 1.0f);
  for (const auto& expert : layer.always_on) {
    observe_expert(expert, always_on_, x, hidden, all, ones, /*lent=*/false);
  }
  if (!lending_) return;
  for (std::size_t e = 0; e < rows.size(); ++e) {
    observe_expert(layer.experts[e], routed_[e], x, hidden, all, ones, /*lent=*/true);
  }
}

void SiteCollector::observe_expert(const kernels::ExpertWeights& expert, const ExpertSites& sites, const float* x,
                                   int hidden, const std::vector<std::int32_t>& rows, const std::vector<float>& weights,
                                   bool lent) {
  const int m = static_cast<int>(rows.size());
  if (m == 0) return;
  const auto target = [&](int index) -> Moments& {
    InputSite& site = sites_[static_cast<std::size_t>(index)];
    if (!lent) {
      site.rows += m;
      return site.moments;
    }
    return lent_.try_emplace(index, site.matrices.front().spec.in).first->second;
  };
  target(sites.gate_up).add(x, hidden, rows.data(), weights.data(), m, context_);
  backend::Workspace::Scope scope(context_.workspace);
  const std::size_t width = static_cast<std::size_t>(expert.gate.out), count = static_cast<std::size_t>(m);
  float* gathered = context_.workspace.alloc<float>(count * static_cast<std::size_t>(hidden));
  float* gate = context_.workspace.alloc<float>(count * width);
  float* up = context_.workspace.alloc<float>(count * width);
  for (std::size_t i = 0; i < count; ++i)
    std::copy_n(x + std::int64_t{rows[i]} * hidden, hidden, gathered + i * hidden);
  apply_dense(expert.gate, gathered, m, gate, context_);
  apply_dense(expert.up, gathered, m, up, context_);
  context_.pool.parallel_for(m, [&](std::int64_t row, int) {
    const std::size_t first = static_cast<std::size_t>(row) * width;
    for (std::size_t i = first; i < first + width; ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
  });
  target(sites.down).add(gate, expert.gate.out, nullptr, weights.data(), m, context_);
}

void SiteCollector::settle(int min_rows_per_input) {
  for (auto& [index, moments] : lent_) {
    InputSite& site = sites_[static_cast<std::size_t>(index)];
    const double wanted = static_cast<double>(min_rows_per_input) * moments.dim();
    const double missing = wanted - static_cast<double>(site.rows);
    if (missing <= 0 || moments.rows() == 0) continue;
    // Each borrowed row counts as a routed one does on average, or very little if there is none.
    const double mean = site.rows > 0 ? site.moments.weight() / static_cast<double>(site.rows) : 1e-4;
    site.moments.add(moments, mean * missing / static_cast<double>(moments.rows()));
    site.borrowed = true;
  }
  lent_.clear();
}

}  // namespace fairway::quantize
