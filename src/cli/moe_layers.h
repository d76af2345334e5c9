// The MoE layers that autotune, optimize and explain work on: those of a model, or of a geometry without weights.
#pragma once

#include <string>
#include <vector>

#include "cli/options.h"
#include "select/moe_call.h"
#include "select/synthetic_layer.h"

namespace fairway::cli {

// Which layers. Exactly one of model and geometry.
struct LayerOptions {
  std::string model, geometry, bits, codebook = "mul1";
};

void add_layer_options(CLI::App& command, LayerOptions& options);
// Error(kUsage) unless one source is given, with options that belong to it.
void check_layer_options(const LayerOptions& options);

// The mix of bit tuples of a geometry, and the traits of its layers.
select::BitMix geometry_mix(const LayerOptions& options);
select::MoeLayerTraits geometry_traits(const LayerOptions& options);

// Layers that selection treats alike.
struct LayerKind {
  select::MoeLayerTraits traits;
  int layers = 0;
};
// Of a model, in the order of its layers; of a geometry, one with 0 layers.
std::vector<LayerKind> layer_kinds(const LayerOptions& options);

}  // namespace fairway::cli
