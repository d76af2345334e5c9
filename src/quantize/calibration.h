// Calibration: the unquantized model run layer by layer over windows of text, and the moments of what its matrices
// read.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "model/model.h"
#include "quantize/layer_sites.h"
#include "select/select.h"

namespace fairway::quantize {

struct CalibrationOptions {
  int window = 1024;  // tokens of a sequence
  int min_rows = 4;   // of a routed expert, per input of the matrix; below, rows of other experts are added
  const std::atomic<bool>* cancel = nullptr;  // asked between windows: Error(kCancelled)
};

// The hidden states of all windows between two layers: [tokens, hidden] floats, and nothing else of the model, so the
// memory needed is this and one layer.
class CalibrationState {
 public:
  // ids: windows one after another, the last one may be shorter. Error(kUsage) without ids or with a window that the
  // model has no positions for.
  CalibrationState(const model::Model& model, std::vector<int> ids, const CalibrationOptions& options,
                   const select::Policy& policy, kernels::KernelContext& context);

  int next_layer() const { return next_layer_; }
  std::int64_t tokens() const { return static_cast<std::int64_t>(ids_.size()); }
  int windows() const;
  std::span<const int> window_ids(int window) const;
  const float* window_state(int window) const;  // inputs of next_layer()

  // Runs next_layer(), whose weights these are, over all windows. With sites (layer_sites of these weights) their
  // moments are collected. progress(share of the layer).
  void advance(const model::LayerWeights& layer, std::vector<InputSite>* sites,
               const std::function<void(double)>& progress = {});

  // After the last layer: the moments of the head's input.
  void collect_head(InputSite& site);

 private:
  const model::Model& model_;
  std::vector<int> ids_;
  CalibrationOptions options_;
  const select::Policy& policy_;
  kernels::KernelContext& context_;
  std::vector<float> state_;
  model::KvCache cache_;
  int next_layer_ = 0;
};

}  // namespace fairway::quantize
