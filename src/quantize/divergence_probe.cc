// The model as it is runs once; changes of one layer rerun only what follows it, together.
#include "quantize/divergence_probe.h"

#include <algorithm>

#include "engine/divergence.h"
#include "quantize/matmul.h"

namespace fairway::quantize {
namespace {

constexpr int kBlockRows = 64;  // of logits held at a time, for each of the two models

}  // namespace

DivergenceProbe::DivergenceProbe(const model::Model& model, const CalibrationState& state, int windows, int stride,
                                 const select::Policy& policy, kernels::KernelContext& context)
    : model_(model),
      windows_(std::min(windows, state.windows())),
      stride_(stride),
      policy_(policy),
      context_(context),
      cache_(model.config()) {
  start_layer(state);
  reference_ = inputs_;
  for (int l = layer_; l < model.config().num_hidden_layers; ++l) run(l, model.read_layer(l).weights, reference_);
  finish(reference_);
}

void DivergenceProbe::start_layer(const CalibrationState& state) {
  layer_ = state.next_layer();
  inputs_.clear();
  changed_.clear();
  for (int w = 0; w < windows_; ++w) {
    const float* x = state.window_state(w);
    inputs_.emplace_back(x, x + static_cast<std::int64_t>(state.window_ids(w).size()) * model_.config().hidden_size);
  }
}

void DivergenceProbe::run(int layer, const model::LayerWeights& weights, Windows& states) {
  for (std::vector<float>& x : states) {
    const int m = static_cast<int>(x.size()) / model_.config().hidden_size;
    model_.forward_layer(layer, weights, x.data(), m, cache_, policy_, context_, counters_);
  }
}

void DivergenceProbe::finish(Windows& states) {
  const int hidden = model_.config().hidden_size;
  for (std::vector<float>& x : states) {
    const int m = static_cast<int>(x.size()) / hidden;
    int kept = 0;
    for (int row = 0; row < m; row += stride_, ++kept) {
      std::copy_n(x.begin() + std::int64_t{row} * hidden, hidden, x.begin() + std::int64_t{kept} * hidden);
    }
    x.resize(static_cast<std::size_t>(kept) * static_cast<std::size_t>(hidden));
    x.shrink_to_fit();  // most of it
    model_.final_norm(x.data(), kept, policy_, context_, counters_);
  }
}

double DivergenceProbe::divergence(const std::vector<float>& hidden, const kernels::LinearWeights& head,
                                   const std::vector<float>& reference, std::int64_t& rows) {
  const std::size_t width = static_cast<std::size_t>(model_.config().hidden_size);
  const std::size_t vocab = static_cast<std::size_t>(model_.config().vocab_size);
  std::vector<float> plain(kBlockRows * vocab), changed(plain.size());
  std::vector<double> sums(kBlockRows);
  double total = 0;
  const int count = static_cast<int>(hidden.size() / width);
  for (int begin = 0; begin < count; begin += kBlockRows) {
    const int m = std::min(kBlockRows, count - begin);
    const std::size_t first = static_cast<std::size_t>(begin) * width;
    apply_dense(model_.head(), &reference[first], m, plain.data(), context_);
    apply_dense(head, &hidden[first], m, changed.data(), context_);
    context_.pool.parallel_for(m, [&](std::int64_t row, int) {
      const std::size_t at = static_cast<std::size_t>(row) * vocab;
      engine::ReferenceRow reference_row;
      reference_row.reset(std::span(plain).subspan(at, vocab));
      sums[static_cast<std::size_t>(row)] = reference_row.compare(std::span(changed).subspan(at, vocab), 0).divergence;
    });
    for (int row = 0; row < m; ++row) total += sums[static_cast<std::size_t>(row)];
  }
  rows += count;
  return total;
}

double DivergenceProbe::mean_divergence(const Windows& hidden, const kernels::LinearWeights& head) {
  double total = 0;
  std::int64_t rows = 0;
  for (std::size_t w = 0; w < hidden.size(); ++w) total += divergence(hidden[w], head, reference_[w], rows);
  return total / static_cast<double>(rows);
}

void DivergenceProbe::change(const model::LayerWeights& changed) {
  run(layer_, changed, changed_.emplace_back(inputs_));
}

std::vector<double> DivergenceProbe::divergences(const std::function<void(double)>& progress) {
  const int layers = model_.config().num_hidden_layers;
  inputs_.clear();
  for (int l = layer_ + 1; l < layers; ++l) {
    if (progress) progress(static_cast<double>(l - layer_ - 1) / (layers - layer_));
    const model::SourceLayer layer = model_.read_layer(l);
    for (Windows& states : changed_) run(l, layer.weights, states);
  }
  std::vector<double> results;
  for (Windows& states : changed_) {
    if (progress) progress(static_cast<double>(layers - layer_ - 1) / (layers - layer_));
    finish(states);
    results.push_back(mean_divergence(states, model_.head()));
  }
  changed_.clear();
  return results;
}

double DivergenceProbe::with_head(const kernels::LinearWeights& changed) {
  return mean_divergence(reference_, changed);
}

}  // namespace fairway::quantize
