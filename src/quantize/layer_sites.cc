// From the layout's list of linears to the weights in memory.
#include "quantize/layer_sites.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <string_view>

#include "codec/packing.h"
#include "fairway/error.h"
#include "kernels/dense_linear/dense_linear.h"

namespace fairway::quantize {
namespace {

using kernels::LinearWeights;

struct Named {
  std::string_view key;  // last part of the module key
  SitePart part;
};
constexpr std::array<Named, 11> kNames = {{{"q_a_proj", SitePart::kQA},
                                           {"q_b_proj", SitePart::kQB},
                                           {"kv_a_proj_with_mqa", SitePart::kKvA},
                                           {"q_proj", SitePart::kQ},
                                           {"k_proj", SitePart::kK},
                                           {"v_proj", SitePart::kV},
                                           {"o_proj", SitePart::kO},
                                           {"gate_proj", SitePart::kGate},
                                           {"up_proj", SitePart::kUp},
                                           {"down_proj", SitePart::kDown},
                                           {"lm_head", SitePart::kHead}}};

SitePart part_of(std::string_view prefix) {
  const std::string_view key = prefix.substr(prefix.rfind('.') + 1);
  for (const Named& named : kNames) {
    if (named.key == key) return named.part;
  }
  throw std::logic_error(fmt::format("no part of a layer is called {}", key));
}

const LinearWeights& expert_part(const kernels::ExpertWeights& expert, SitePart part) {
  if (part == SitePart::kGate) return expert.gate;
  return part == SitePart::kUp ? expert.up : expert.down;
}

const LinearWeights& weights_of(const formats::LinearSpec& spec, SitePart part, const formats::ModelConfig& config,
                                const model::LayerWeights& layer) {
  switch (part) {
    case SitePart::kQA:
      return layer.mla.q_a;
    case SitePart::kQB:
      return layer.mla.q_b;
    case SitePart::kKvA:
      return layer.mla.kv_a;
    case SitePart::kQ:
      return config.attention == formats::AttentionKind::kMla ? layer.mla.q_b : layer.gqa.q;
    case SitePart::kK:
      return layer.gqa.k;
    case SitePart::kV:
      return layer.gqa.v;
    case SitePart::kO:
      return config.attention == formats::AttentionKind::kMla ? layer.mla.o : layer.gqa.o;
    default:
      return expert_part(
          spec.expert >= 0 ? layer.mlp.experts[static_cast<std::size_t>(spec.expert)] : layer.mlp.always_on.front(),
          part);
  }
}

// What the matrix reads, as a key that matrices of one input share.
std::string input_name(const formats::LinearSpec& spec, SitePart part) {
  const std::string module = spec.prefix.substr(0, spec.prefix.rfind('.'));
  switch (part) {
    case SitePart::kQA:
    case SitePart::kKvA:
    case SitePart::kQ:
    case SitePart::kK:
    case SitePart::kV:
      return module + ".input";
    case SitePart::kGate:
    case SitePart::kUp:
      return module + ".gate_up";
    default:
      return spec.prefix;
  }
}

}  // namespace

const char* part_name(SitePart part) {
  for (const Named& named : kNames) {
    if (named.part == part) return named.key.data();
  }
  throw std::logic_error("unnamed part");
}

std::vector<InputSite> layer_sites(const formats::ModelConfig& config, const model::LayerWeights& weights, int layer) {
  std::vector<InputSite> sites;
  for (const formats::LinearSpec& spec : formats::layer_linears(config, layer)) {
    if (spec.dense_only) continue;
    const SitePart part = part_of(spec.prefix);
    const std::string name = input_name(spec, part);
    InputSite* site = nullptr;
    for (auto it = sites.rbegin(); it != sites.rend() && site == nullptr; ++it) {
      if (it->name == name) site = &*it;
    }
    if (site == nullptr) {
      site = &sites.emplace_back();
      site->name = name;
      const bool shared = spec.expert >= 0 && part != SitePart::kDown;
      site->scale_name = shared ? fmt::format("{}mlp.experts.gate_up", formats::layer_prefix(layer)) : name;
      site->layer = layer;
      site->expert = spec.expert;
      site->moments = Moments(spec.in);
    }
    site->matrices.push_back({spec, part, &weights_of(spec, part, config, weights)});
  }
  return sites;
}

std::vector<InputSite> head_sites(const model::Model& model) {
  const formats::ModelConfig& config = model.config();
  if (formats::uses_tied_head(config, model.checkpoint())) return {};
  const formats::LinearSpec spec{.prefix = "lm_head",
                                 .in = config.hidden_size,
                                 .out = config.vocab_size,
                                 .role = formats::LinearRole::kHead,
                                 .allow_padded_out = true};
  InputSite site;
  site.name = site.scale_name = "lm_head";
  site.matrices.push_back({spec, SitePart::kHead, &model.head()});
  site.moments = Moments(spec.in);
  std::vector<InputSite> sites;
  sites.push_back(std::move(site));
  return sites;
}

PlainWeights load_plain(const SiteMatrix& matrix, const std::string& model_dir) {
  const LinearWeights& source = *matrix.weights;
  const kernels::DenseMatrix& dense = source.dense();
  PlainWeights plain{matrix.spec.prefix, codec::padded(source.in), codec::padded(source.out), {}};
  plain.values.resize(static_cast<std::size_t>(plain.in) * static_cast<std::size_t>(plain.out));
  for (std::int64_t j = 0; j < source.out; ++j) {
    float* row = &plain.values[static_cast<std::size_t>(j) * static_cast<std::size_t>(plain.in)];
    kernels::read_dense_row(dense, j, row);
    const float* bad = std::find_if_not(row, row + source.in, [](float value) { return std::isfinite(value); });
    if (bad == row + source.in) continue;
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: tensor \"{}.weight\": value at [{}, {}] is {}, expected a finite number", model_dir,
                            matrix.spec.prefix, j, bad - row, *bad));
  }
  return plain;
}

}  // namespace fairway::quantize
