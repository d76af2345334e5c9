// Reads config.json past the quantization that the source may have, and writes the new one.
#include "quantize/checkpoint_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "codec/packing.h"
#include "fairway/error.h"
#include "formats/json.h"
#include "formats/json_text.h"
#include "formats/mapped_file.h"

namespace fairway::quantize {
namespace {

using nlohmann::ordered_json;

constexpr const char* kKey = "quantization_config";
constexpr std::size_t kMaxConfigBytes = 16u << 20;

// Dense layers before the first that routes, if all layers behind it route too.
std::optional<int> leading_dense_layers(const formats::ModelConfig& model) {
  const auto& routes = model.layer_is_moe;
  const auto first = std::find(routes.begin(), routes.end(), true);
  if (std::find(first, routes.end(), false) != routes.end()) return std::nullopt;
  return static_cast<int>(first - routes.begin());
}

// Glm4MoeLite is DeepseekV3 with other keys and defaults, and the second is the name that the readers of EXL3 know.
// What the defaults of the two would say differently is written out.
void name_as_deepseek(const formats::ModelConfig& model, ordered_json& config) {
  const std::optional<int> dense = leading_dense_layers(model);
  if (model.architecture != formats::Architecture::kGlm4MoeLite || !dense || !model.rope_interleave) return;
  config["architectures"] = {"DeepseekV3ForCausalLM"};
  config["model_type"] = "deepseek_v3";
  for (const char* key : {"mlp_layer_types", "rope_parameters", "rope_scaling"}) config.erase(key);
  config["first_k_dense_replace"] = *dense;
  config["n_group"] = 1;
  config["topk_group"] = 1;
  config["n_shared_experts"] = model.n_shared_experts;
  config["norm_topk_prob"] = model.norm_topk_prob;
  config["scoring_func"] = "sigmoid";
  config["topk_method"] = "noaux_tc";
  config["rope_theta"] = model.rope_theta;
  const auto state = [&](const char* key, double absent) {
    if (!config.contains(key) || config[key].is_null()) config[key] = absent;
  };
  state("rms_norm_eps", formats::kGlm4MoeLiteNormEps);
  state("routed_scaling_factor", formats::kGlm4MoeLiteRoutedScale);
}

}  // namespace

SourceConfig read_source_config(const std::filesystem::path& model_dir) {
  const std::filesystem::path path = model_dir / "config.json";
  const std::string text = formats::read_text_file(path, kMaxConfigBytes);
  SourceConfig source;
  source.model = formats::parse_model_config(text, path.string());
  source.document = ordered_json::parse(text);  // checked above; this parse keeps the order of keys
  const auto quantization = source.document.find(kKey);
  if (quantization != source.document.end() && quantization->contains("quant_method") &&
      quantization->at("quant_method") == "exl3") {
    throw Error(
        ErrorKind::kUnsupported,
        fmt::format("{}: {}.quant_method is \"exl3\"; a model to be quantized is plain or fp8", path.string(), kKey));
  }
  return source;
}

ordered_json quantization_config(const SourceConfig& source, const CheckpointFacts& facts) {
  ordered_json config = {{"quant_method", "exl3"},
                         {"version", fmt::format("fairway-{}", facts.version)},
                         {"bits", std::round(facts.bits * 100) / 100},
                         {"head_bits", facts.head_bits},
                         {"calibration", {{"rows", facts.calibration_rows}, {"cols", facts.calibration_cols}}},
                         {"out_scales", facts.out_scales},
                         {"codebook", codec::codebook_name(facts.codebook)}};
  const auto original = source.document.find(kKey);
  if (original != source.document.end() && !original->is_null()) config["original_quantization_config"] = *original;
  return config;
}

std::string config_text(const SourceConfig& source, const ordered_json& quantization) {
  ordered_json config = source.document;
  name_as_deepseek(source.model, config);
  config[kKey] = quantization;
  return formats::json_text(config);
}

}  // namespace fairway::quantize
