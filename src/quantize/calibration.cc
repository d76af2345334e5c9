// Windows go through one layer before the next layer is touched.
#include "quantize/calibration.h"

#include <fmt/format.h>

#include <algorithm>

#include "fairway/error.h"
#include "quantize/site_collector.h"

namespace fairway::quantize {
namespace {

constexpr int kLendingWindows = 1;  // all experts see all tokens of so many windows

}  // namespace

CalibrationState::CalibrationState(const model::Model& model, std::vector<int> ids, const CalibrationOptions& options,
                                   const select::Policy& policy, kernels::KernelContext& context)
    : model_(model),
      ids_(std::move(ids)),
      options_(options),
      policy_(policy),
      context_(context),
      cache_(model.config()) {
  const formats::ModelConfig& config = model.config();
  if (ids_.empty()) throw Error(ErrorKind::kUsage, "calibration needs at least one token");
  if (options_.window < 1 || options_.window > config.max_position_embeddings) {
    throw Error(ErrorKind::kUsage, fmt::format("calibration windows of {} tokens, expected 1 to {} (positions of the "
                                               "model)",
                                               options_.window, config.max_position_embeddings));
  }
  for (const int id : ids_) {
    if (id < 0 || id >= config.vocab_size) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("calibration token {} is outside of 0 .. {}", id, config.vocab_size - 1));
    }
  }
  state_.resize(ids_.size() * static_cast<std::size_t>(config.hidden_size));
  model.embed(ids_, state_.data());
}

int CalibrationState::windows() const {
  const std::size_t window = static_cast<std::size_t>(options_.window);
  return static_cast<int>((ids_.size() + window - 1) / window);
}

std::span<const int> CalibrationState::window_ids(int window) const {
  const std::size_t begin = static_cast<std::size_t>(window) * static_cast<std::size_t>(options_.window);
  return std::span(ids_).subspan(begin, std::min(ids_.size() - begin, static_cast<std::size_t>(options_.window)));
}

const float* CalibrationState::window_state(int window) const {
  return state_.data() + static_cast<std::int64_t>(window) * options_.window * model_.config().hidden_size;
}

void CalibrationState::advance(const model::LayerWeights& layer, std::vector<InputSite>* sites,
                               const std::function<void(double)>& progress) {
  moe::Counters counters;
  std::vector<InputSite> none;
  SiteCollector collector(sites == nullptr ? none : *sites, context_);
  if (sites != nullptr) collector.attach(counters);
  for (int w = 0; w < windows(); ++w) {
    if (options_.cancel != nullptr && options_.cancel->load(std::memory_order_relaxed)) {
      throw Error(ErrorKind::kCancelled, "calibration was cancelled");
    }
    collector.lend(w < kLendingWindows);
    float* x = const_cast<float*>(window_state(w));
    model_.forward_layer(next_layer_, layer, x, static_cast<int>(window_ids(w).size()), cache_, policy_, context_,
                         counters);
    if (progress) progress(static_cast<double>(w + 1) / windows());
  }
  collector.settle(options_.min_rows);
  ++next_layer_;
}

void CalibrationState::collect_head(InputSite& site) {
  moe::Counters counters;
  std::vector<float> normed;
  const int hidden = model_.config().hidden_size;
  for (int w = 0; w < windows(); ++w) {
    const int m = static_cast<int>(window_ids(w).size());
    normed.assign(window_state(w), window_state(w) + static_cast<std::int64_t>(m) * hidden);
    model_.final_norm(normed.data(), m, policy_, context_, counters);
    site.moments.add(normed.data(), hidden, nullptr, nullptr, m, context_);
    site.rows += m;
  }
}

}  // namespace fairway::quantize
