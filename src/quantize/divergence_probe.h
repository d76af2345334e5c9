// How far the predictions of the model move when some of its weights do.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "model/model.h"
#include "quantize/calibration.h"

namespace fairway::quantize {

// Mean KL divergence, in nats per token, of the model with changed weights against the model as it is, over the first
// windows of the calibration text.
class DivergenceProbe {
 public:
  // state: before the first layer. Predictions of every `stride`-th token of `windows` windows are compared.
  DivergenceProbe(const model::Model& model, const CalibrationState& state, int windows, int stride,
                  const select::Policy& policy, kernels::KernelContext& context);

  // From now on, change() is about state.next_layer(). What is needed of the state is copied.
  void start_layer(const CalibrationState& state);
  // Runs the layer with these weights. Its outputs, not the weights, are kept.
  void change(const model::LayerWeights& changed);
  // Ends what start_layer() began. The divergence after every change() since then, with all later layers as they are.
  // Each of these is read once for all changes, so that not more than one of them is in memory. progress(share).
  std::vector<double> divergences(const std::function<void(double)>& progress = {});

  double with_head(const kernels::LinearWeights& changed);

 private:
  using Windows = std::vector<std::vector<float>>;  // hidden states by window

  void run(int layer, const model::LayerWeights& weights, Windows& states);
  // Final hidden states of the compared rows, from those after the last layer.
  void finish(Windows& states);
  double mean_divergence(const Windows& hidden, const kernels::LinearWeights& head);
  double divergence(const std::vector<float>& hidden, const kernels::LinearWeights& head,
                    const std::vector<float>& reference, std::int64_t& rows);

  const model::Model& model_;
  int windows_, stride_;
  const select::Policy& policy_;
  kernels::KernelContext& context_;
  model::KvCache cache_;
  moe::Counters counters_;
  int layer_ = 0;
  Windows inputs_;                // of layer_
  std::vector<Windows> changed_;  // outputs of layer_, by change
  Windows reference_;             // final hidden states of the compared tokens
};

}  // namespace fairway::quantize
