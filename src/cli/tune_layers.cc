// Recording a model's layers, and the cache that they may stay in.
#include "cli/tune_layers.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "backend/cpu/features.h"
#include "cli/output.h"
#include "cli/sample_text.h"
#include "cli/signals.h"
#include "cli/synth.h"
#include "fairway/error.h"
#include "formats/tokenizer.h"

namespace fairway::cli {
namespace {

constexpr std::size_t kMostLayers = 16;  // of a kind: more do not make the weights colder than memory
constexpr int kRecordedRows = 256;       // hidden states kept per layer
constexpr std::int64_t kPoolBytes = std::int64_t{1} << 30;  // of random codes

bool all_trellis(const moe::MoeLayerWeights& layer) {
  const auto trellis = [](const kernels::ExpertWeights& expert) { return expert.is_trellis(); };
  return std::all_of(layer.experts.begin(), layer.experts.end(), trellis) &&
         std::all_of(layer.always_on.begin(), layer.always_on.end(), trellis);
}

std::vector<int> text_ids(const model::Model& model, const std::string& directory, const std::string& text,
                          int tokens) {
  const formats::Tokenizer tokenizer = formats::Tokenizer::load(directory);
  std::vector<int> ids = tokenizer.encode(text.empty() ? kSampleText : text);
  if (tokenizer.bos_id() >= 0) ids.insert(ids.begin(), tokenizer.bos_id());
  const int most = std::min(tokens, model.config().max_position_embeddings);
  if (ids.size() > static_cast<std::size_t>(most)) ids.resize(static_cast<std::size_t>(most));
  if (ids.empty()) throw Error(ErrorKind::kUsage, "--text: the text has no tokens to record hidden states from");
  return ids;
}

// At most kMostLayers of each kind, evenly spaced.
std::vector<int> spaced_layers(const model::Model& model) {
  std::map<std::uint64_t, std::vector<int>> kinds;
  for (int i = 0; i < model.moe_layer_count(); ++i) {
    const moe::MoeLayerWeights& layer = model.moe_layer(i);
    if (!layer.traits.mix.empty() && all_trellis(layer)) kinds[layer.traits.key].push_back(i);
  }
  std::vector<int> chosen;
  for (const auto& [key, all] : kinds) {
    const std::size_t count = std::min(all.size(), kMostLayers);
    for (std::size_t i = 0; i < count; ++i) chosen.push_back(all[i * all.size() / count]);
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

double layer_bytes(const select::MoeLayerTraits& t) {
  return 3.0 * t.hidden * t.intermediate * (t.experts + t.always_on) * t.mean_bits() / 8;
}

}  // namespace

TuneLayers::TuneLayers(const LayerOptions& options, const std::string& text, int tokens,
                       kernels::KernelContext& context) {
  if (options.model.empty()) {
    synthesize(options);
  } else {
    record(options, text, tokens, context);
  }
}

void TuneLayers::synthesize(const LayerOptions& options) {
  const std::int64_t pool = std::min<std::int64_t>(kPoolBytes, backend::cpu_info().memory_bytes / 4);
  synthetic_ = std::make_unique<select::SyntheticLayers>(select::geometry(options.geometry), geometry_mix(options),
                                                         codebook_named(options.codebook), pool);
  layers_ = synthetic_->layers();
  about_ = fmt::format(
      "{} layers of the size of {} with random {} weights ({}), standard normal inputs, all experts "
      "alike likely",
      layers_.size(), options.geometry, options.codebook,
      human_bytes(static_cast<double>(synthetic_->layer_bytes()) * static_cast<double>(layers_.size())));
}

void TuneLayers::record(const LayerOptions& options, const std::string& text, int tokens,
                        kernels::KernelContext& context) {
  Progress progress("recording");
  model_ = std::make_unique<model::Model>(model::Model::load(options.model, [&](int done, int total) {
    throw_if_cancelled("loading the model");
    progress.update(0.5 * done / std::max(1, total), "loading");
  }));
  std::map<const moe::MoeLayerWeights*, std::size_t> places;
  for (const int i : spaced_layers(*model_)) {
    const moe::MoeLayerWeights& layer = model_->moe_layer(i);
    places[&layer] = layers_.size();
    layers_.push_back({&layer.experts, &layer.always_on, layer.traits, {}, std::vector<double>(layer.experts.size())});
  }
  if (layers_.empty()) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: the model has no layer with routed experts in EXL3", options.model));
  }
  const std::vector<int> ids = text_ids(*model_, options.model, text, tokens);
  moe::Counters counters;
  int seen = 0;
  counters.observer = [&](const moe::MoeLayerWeights& layer, const float* x, int m, int hidden,
                          std::span<const std::int32_t> experts, std::span<const float>) {
    if (experts.empty()) return;  // a dense MLP
    throw_if_cancelled("recording hidden states");
    progress.update(0.5 + 0.5 * ++seen / model_->moe_layer_count(), "forward pass");
    const auto place = places.find(&layer);
    if (place == places.end()) return;
    select::TuneLayer& recorded = layers_[place->second];
    const std::int64_t values = std::int64_t{std::min(m, kRecordedRows)} * hidden;
    recorded.inputs.assign(x, x + values);
    for (const std::int32_t expert : experts) recorded.expert_shares[static_cast<std::size_t>(expert)] += 1;
  };
  const select::Policy policy = select::make_policy("", "", "");
  model::KvCache cache(model_->config());
  std::vector<float> hidden;
  model_->forward(ids, cache, policy, context, counters, hidden);
  double bytes = 0;
  for (const select::TuneLayer& layer : layers_) bytes += layer_bytes(layer.traits);
  about_ = fmt::format("{} layers of {} ({}), hidden states and routing of {} tokens of {}", layers_.size(),
                       options.model, human_bytes(bytes), ids.size(), text.empty() ? "an English text" : "the text");
}

const char* TuneLayers::weights_from(const select::MoeLayerTraits& traits, int tokens) const {
  double touched = 0;  // experts of one call
  for (const select::GroupSize& group : select::expected_groups(traits, tokens)) touched += group.experts;
  const auto layers = std::count_if(layers_.begin(), layers_.end(),
                                    [&](const select::TuneLayer& layer) { return layer.traits.key == traits.key; });
  const double call = layer_bytes(traits) * touched / (traits.experts + traits.always_on);
  const double walk = std::min(select::CallTimer::kMostCalls * call, layer_bytes(traits) * static_cast<double>(layers));
  return walk > static_cast<double>(backend::cpu_info().l3_bytes) ? "memory" : "cache";
}

}  // namespace fairway::cli
