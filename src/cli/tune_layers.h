// Layers to time: a model's own, with hidden states and routing recorded from a forward pass, or those of a geometry,
// with random weights and inputs.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cli/moe_layers.h"
#include "kernels/common/context.h"
#include "model/model.h"
#include "select/call_timer.h"
#include "select/synthetic_layer.h"

namespace fairway::cli {

class TuneLayers {
 public:
  // text: what the forward pass reads, at most `tokens` tokens of it; "": a short English text.
  TuneLayers(const LayerOptions& options, const std::string& text, int tokens, kernels::KernelContext& context);

  std::span<const select::TuneLayer> layers() const { return layers_; }
  // What the timed calls read: one sentence for the output.
  const std::string& about() const { return about_; }
  // "memory" if a call of so many tokens, taken through all layers of its kind, reads more than the last-level cache
  // holds, else "cache".
  const char* weights_from(const select::MoeLayerTraits& traits, int tokens) const;

 private:
  void record(const LayerOptions& options, const std::string& text, int tokens, kernels::KernelContext& context);
  void synthesize(const LayerOptions& options);

  std::unique_ptr<model::Model> model_;
  std::unique_ptr<select::SyntheticLayers> synthetic_;
  std::vector<select::TuneLayer> layers_;
  std::string about_;
};

}  // namespace fairway::cli
