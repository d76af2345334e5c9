// The model as it is runs once; a change of one layer reruns only what follows it.
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
  for (const std::vector<float>& inputs : inputs_) reference_.push_back(run(inputs, layer_, nullptr));
}

void DivergenceProbe::start_layer(const CalibrationState& state) {
  layer_ = state.next_layer();
  inputs_.clear();
  for (int w = 0; w < windows_; ++w) {
    const float* x = state.window_state(w);
    inputs_.emplace_back(x, x + static_cast<std::int64_t>(state.window_ids(w).size()) * model_.config().hidden_size);
  }
}

std::vector<float> DivergenceProbe::run(std::vector<float> x, int first_layer, const model::LayerWeights* first) {
  moe::Counters counters;
  const int hidden = model_.config().hidden_size, m = static_cast<int>(x.size()) / hidden;
  for (int l = first_layer; l < model_.config().num_hidden_layers; ++l) {
    const bool changed = l == first_layer && first != nullptr;
    model_.forward_layer(l, changed ? *first : model_.layer(l), x.data(), m, cache_, policy_, context_, counters);
  }
  int kept = 0;
  for (int row = 0; row < m; row += stride_, ++kept) {
    std::copy_n(x.begin() + std::int64_t{row} * hidden, hidden, x.begin() + std::int64_t{kept} * hidden);
  }
  x.resize(static_cast<std::size_t>(kept) * static_cast<std::size_t>(hidden));
  model_.final_norm(x.data(), kept, policy_, context_, counters);
  return x;
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

double DivergenceProbe::with_layer(const model::LayerWeights& changed) {
  double total = 0;
  std::int64_t rows = 0;
  for (int w = 0; w < windows_; ++w) {
    const std::size_t i = static_cast<std::size_t>(w);
    total += divergence(run(inputs_[i], layer_, &changed), model_.head(), reference_[i], rows);
  }
  return total / static_cast<double>(rows);
}

double DivergenceProbe::with_head(const kernels::LinearWeights& changed) {
  double total = 0;
  std::int64_t rows = 0;
  for (const std::vector<float>& reference : reference_) total += divergence(reference, changed, reference, rows);
  return total / static_cast<double>(rows);
}

}  // namespace fairway::quantize
