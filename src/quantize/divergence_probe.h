// How far the predictions of the model move when some of its weights do.
#pragma once

#include <cstdint>
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

  // From now on, with_layer() changes state.next_layer(). What is needed of the state is copied.
  void start_layer(const CalibrationState& state);
  double with_layer(const model::LayerWeights& changed);  // all later layers as they are
  double with_head(const kernels::LinearWeights& changed);

 private:
  // Final hidden states of the compared rows of a window, from its hidden states before a layer.
  std::vector<float> run(std::vector<float> x, int first_layer, const model::LayerWeights* first);
  double divergence(const std::vector<float>& hidden, const kernels::LinearWeights& head,
                    const std::vector<float>& reference, std::int64_t& rows);
  const model::Model& model_;
  int windows_, stride_;
  const select::Policy& policy_;
  kernels::KernelContext& context_;
  model::KvCache cache_;
  int layer_ = 0;
  std::vector<std::vector<float>> inputs_;     // of layer_, by window
  std::vector<std::vector<float>> reference_;  // final hidden states of the compared tokens, by window
};

}  // namespace fairway::quantize
