// Layers by model or geometry.
#include "cli/moe_layers.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/output.h"
#include "cli/signals.h"
#include "cli/synth.h"
#include "model/model.h"

namespace fairway::cli {
namespace {

constexpr const char* kDefaultBits = "6,2,3";  // the project's model: GLM-4.7-Flash with mixed widths

}  // namespace
void add_layer_options(CLI::App& command, LayerOptions& options) {
  command.add_option("--model,-m", options.model, "Model directory: its own layers")->type_name("DIR");
  command
      .add_option("--geometry", options.geometry,
                  "Instead of --model: layers of this size with random weights: glm47, qwen3-30b or demo")
      ->type_name("NAME");
  command
      .add_option("--bits", options.bits,
                  "With --geometry: 3, or gate,up,down as 6,2,3, or a list \"6,2,3;2,2,2\" that experts take in turn")
      ->type_name("TUPLES");
  command.add_option("--codebook", options.codebook, "With --geometry: codebook of every trellis")
      ->check(CLI::IsMember({"mul1", "mcg", "3inst"}))
      ->capture_default_str();
}

void check_layer_options(const LayerOptions& options) {
  if (options.model.empty() == options.geometry.empty()) {
    throw Error(ErrorKind::kUsage, "exactly one of --model DIR and --geometry NAME is needed");
  }
  if (!options.model.empty()) {
    if (!options.bits.empty()) throw Error(ErrorKind::kUsage, "--bits belongs to --geometry; a model has its own");
    return;
  }
  select::geometry(options.geometry);
  geometry_mix(options);
}

select::BitMix geometry_mix(const LayerOptions& options) {
  select::BitMix mix{options.bits.empty() ? kDefaultBits : options.bits, {}};
  for (const kernels::BitTuple& bits : parse_bit_tuples(mix.name)) {
    const auto same = [&](const select::TupleShare& part) { return part.bits == bits; };
    const auto part = std::find_if(mix.shares.begin(), mix.shares.end(), same);
    if (part == mix.shares.end()) {
      mix.shares.push_back({bits, 1});
    } else {
      part->share += 1;
    }
  }
  return mix;
}

select::MoeLayerTraits geometry_traits(const LayerOptions& options) {
  const select::MoeGeometry& g = select::geometry(options.geometry);
  return select::moe_traits(g.hidden, g.intermediate, g.experts, g.top_k, g.always_on,
                            kernels::codebook_bit(codebook_named(options.codebook)), geometry_mix(options).shares);
}

std::vector<LayerKind> layer_kinds(const LayerOptions& options) {
  if (!options.geometry.empty()) return {{geometry_traits(options), 0}};
  const model::Model model =
      model::Model::load(options.model, [](int, int) { throw_if_cancelled("loading the model"); });
  std::vector<LayerKind> kinds;
  for (int i = 0; i < model.moe_layer_count(); ++i) {
    const select::MoeLayerTraits& traits = model.moe_layer(i).traits;
    if (traits.mix.empty()) continue;  // plain weights: nothing to select
    const auto same = [&](const LayerKind& kind) { return kind.traits.key == traits.key; };
    const auto kind = std::find_if(kinds.begin(), kinds.end(), same);
    if (kind == kinds.end()) {
      kinds.push_back({traits, 1});
    } else {
      ++kind->layers;
    }
  }
  if (kinds.empty()) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: the model has no layer with routed experts in EXL3", options.model));
  }
  return kinds;
}

}  // namespace fairway::cli
