// config.json -> ModelConfig: one reader that knows a key's type and range, then the rules of each architecture.
#include "formats/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>

#include "fairway/error.h"
#include "formats/json.h"
#include "formats/json_field.h"
#include "formats/mapped_file.h"

namespace fairway::formats {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxConfigBytes = 16u << 20;  // real ones are a few KB
// Far above any published model, and low enough that products of two fit 63 bits and sums fit an int.
constexpr int kMaxVocab = 1 << 24;
constexpr int kMaxDim = 1 << 20;
constexpr int kMaxDerivedDim = 1 << 24;  // heads * head size, shared experts * expert size
constexpr int kMaxLayers = 4096;
constexpr int kMaxExperts = 65536;  // of one layer
constexpr int kMaxExpertsInModel = 1 << 17;
constexpr int kMaxPositions = 1 << 27;
constexpr int kMaxBlock = 1 << 20;

int to_int(const JsonField& field, int low, int high) {
  return static_cast<int>(field.integer(low, high));
}

int require_int(const JsonField& object, const char* key, int low, int high) {
  return to_int(object.at(key), low, high);
}

int get_int(const JsonField& object, const char* key, int absent, int low, int high) {
  const auto field = object.find(key);
  return field ? to_int(*field, low, high) : absent;
}

// In the range of normal floats above 0, which is what most of them end up as.
double get_positive(const JsonField& object, const char* key, double absent) {
  const auto field = object.find(key);
  if (!field) return absent;
  const double value = field->json().is_number() ? field->json().get<double>() : 0.0;
  constexpr double kLeast = std::numeric_limits<float>::min(), kMost = std::numeric_limits<float>::max();
  if (!(value >= kLeast && value <= kMost)) {
    field->bad(fmt::format("expected a finite number above 0, found {}", printable(field->json().dump(), 60)));
  }
  return value;
}

// The value if given must be this one; anything else is a feature this version lacks.
void allow_only(const JsonField& object, const char* key, const std::string& only) {
  const auto field = object.find(key);
  if (!field || field->string() == only) return;
  field->unsupported(fmt::format("\"{}\"; only \"{}\" is supported", printable(field->string(), 60), only));
}

// For products that become one matrix dimension; `what` spells the product out in keys.
void limit_product(const JsonField& root, const char* what, int a, int b) {
  const std::int64_t product = std::int64_t{a} * b;
  if (product > kMaxDerivedDim) {
    root.bad(fmt::format("{} is {} * {} = {}, larger than {}", what, a, b, product, kMaxDerivedDim));
  }
}

void read_architecture(const JsonField& root, ModelConfig& config) {
  constexpr const char* kSupported = "supported are Glm4MoeLiteForCausalLM, DeepseekV3ForCausalLM, Qwen3MoeForCausalLM";
  const auto names = root.find("architectures");
  if (!names || names->array_size() == 0) root.bad(fmt::format("architectures is missing or empty; {}", kSupported));
  const std::string& name = names->element(0).string();
  if (name == "Glm4MoeLiteForCausalLM") {
    config.architecture = Architecture::kGlm4MoeLite;
  } else if (name == "DeepseekV3ForCausalLM") {
    config.architecture = Architecture::kDeepseekV3;
  } else if (name == "Qwen3MoeForCausalLM") {
    config.architecture = Architecture::kQwen3Moe;
  } else {
    root.unsupported(fmt::format("architectures names {}; {}", printable(name, 80), kSupported));
  }
  config.architecture_name = name;
}

// EXL3 needs nothing of it. The method fp8 only says how scales are laid out: whether fp8 tensors can be used, and
// which ones there are, is for those to say who read them.
void read_quantization(const JsonField& root, ModelConfig& config) {
  const auto quantization = root.find("quantization_config");
  const auto method = quantization ? quantization->find("quant_method") : std::nullopt;
  if (!method || method->string() == "exl3") return;
  if (method->string() != "fp8") {
    method->unsupported(
        fmt::format("\"{}\"; only \"exl3\" and \"fp8\" are supported", printable(method->string(), 60)));
  }
  const auto size = quantization->find("weight_block_size");
  if (!size) return;
  if (size->array_size() != 2) size->bad("expected two numbers, rows and columns");
  config.fp8_block = {to_int(size->element(0), 1, kMaxBlock), to_int(size->element(1), 1, kMaxBlock)};
}

void read_common(const JsonField& root, ModelConfig& config) {
  config.vocab_size = require_int(root, "vocab_size", 1, kMaxVocab);
  config.hidden_size = require_int(root, "hidden_size", 1, kMaxDim);
  config.num_hidden_layers = require_int(root, "num_hidden_layers", 1, kMaxLayers);
  config.num_attention_heads = require_int(root, "num_attention_heads", 1, kMaxDim);
  config.max_position_embeddings = require_int(root, "max_position_embeddings", 1, kMaxPositions);
  const bool glm = config.architecture == Architecture::kGlm4MoeLite;
  const double default_eps = glm ? kGlm4MoeLiteNormEps : 1e-6;  // Hugging Face
  config.rms_norm_eps = static_cast<float>(get_positive(root, "rms_norm_eps", default_eps));
  config.tie_word_embeddings = root.flag("tie_word_embeddings", false);
  config.attention_bias = root.flag("attention_bias", false);
  allow_only(root, "hidden_act", "silu");
  read_quantization(root, config);
}

void allow_whole_rotation(const JsonField& object) {
  const double part = get_positive(object, "partial_rotary_factor", 1.0);
  if (part != 1.0) object.unsupported(fmt::format("partial_rotary_factor is {}; only 1 is supported", part));
}

// rope_parameters is the current spelling; rope_theta beside rope_scaling (null: none) the older one.
void read_rope(const JsonField& root, ModelConfig& config) {
  config.rope_theta = get_positive(root, "rope_theta", 10000.0);
  allow_whole_rotation(root);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const auto rope = root.find(key);
    if (!rope) continue;
    allow_only(*rope, "rope_type", "default");
    allow_only(*rope, "type", "default");
    allow_whole_rotation(*rope);
    config.rope_theta = get_positive(*rope, "rope_theta", config.rope_theta);
  }
}

void read_mla(const JsonField& root, ModelConfig& config) {
  config.attention = AttentionKind::kMla;
  config.num_key_value_heads = get_int(root, "num_key_value_heads", config.num_attention_heads, 1, kMaxDim);
  // Absent would mean the architecture's default rank, which no checkpoint relies on; null means one q_proj.
  if (!root.object().contains("q_lora_rank")) root.bad("q_lora_rank is missing (null means a single q_proj)");
  config.q_lora_rank = get_int(root, "q_lora_rank", 0, 1, kMaxDim);
  config.kv_lora_rank = require_int(root, "kv_lora_rank", 1, kMaxDim);
  config.qk_nope_head_dim = require_int(root, "qk_nope_head_dim", 1, kMaxDim);
  config.qk_rope_head_dim = require_int(root, "qk_rope_head_dim", 2, kMaxDim);
  config.v_head_dim = require_int(root, "v_head_dim", 1, kMaxDim);
  config.rope_interleave = root.flag("rope_interleave", true);
  if (config.qk_rope_head_dim % 2 != 0) {
    root.bad(fmt::format("qk_rope_head_dim is {}, expected an even number", config.qk_rope_head_dim));
  }
  const int qk = config.qk_nope_head_dim + config.qk_rope_head_dim;
  if (get_int(root, "qk_head_dim", qk, 1, 2 * kMaxDim) != qk) {
    root.bad(fmt::format("qk_head_dim is not qk_nope_head_dim + qk_rope_head_dim = {}", qk));
  }
  limit_product(root, "num_attention_heads * (qk_nope_head_dim + qk_rope_head_dim)", config.num_attention_heads, qk);
  limit_product(root, "num_attention_heads * (qk_nope_head_dim + v_head_dim)", config.num_attention_heads,
                config.qk_nope_head_dim + config.v_head_dim);
}

void read_gqa(const JsonField& root, ModelConfig& config) {
  config.attention = AttentionKind::kGqa;
  config.num_key_value_heads = require_int(root, "num_key_value_heads", 1, kMaxDim);
  if (!root.find("head_dim") && config.hidden_size % config.num_attention_heads != 0) {
    root.bad(fmt::format("head_dim is missing and hidden_size {} is not a multiple of num_attention_heads {}",
                         config.hidden_size, config.num_attention_heads));
  }
  config.head_dim = get_int(root, "head_dim", config.hidden_size / config.num_attention_heads, 2, kMaxDim);
  config.rope_interleave = false;
  if (config.head_dim % 2 != 0) root.bad(fmt::format("head_dim is {}, expected an even number", config.head_dim));
  if (root.flag("use_sliding_window", false)) {
    root.unsupported("use_sliding_window is true; sliding-window attention is not supported");
  }
  limit_product(root, "num_attention_heads * head_dim", config.num_attention_heads, config.head_dim);
}

// All experts in one group is what this version routes; the defaults are those of the Hugging Face classes.
void check_groups(const JsonField& root, const ModelConfig& config) {
  const bool deepseek = config.architecture == Architecture::kDeepseekV3;
  const auto check = [&](const char* key, int absent) {
    const int value = get_int(root, key, absent, 1, kMaxExperts);
    if (value != 1) {
      root.unsupported(fmt::format("{} is {}{}; only one expert group is supported", key, value,
                                   root.find(key) ? "" : " (the architecture's default)"));
    }
  };
  check("n_group", deepseek ? 8 : 1);
  check("topk_group", deepseek ? 4 : 1);
}

void read_experts(const JsonField& root, ModelConfig& config) {
  const bool qwen = config.architecture == Architecture::kQwen3Moe;
  const char* experts_key = qwen ? "num_experts" : "n_routed_experts";
  if (!root.find(experts_key) && root.find("num_local_experts")) experts_key = "num_local_experts";
  config.n_routed_experts = require_int(root, experts_key, 1, kMaxExperts);
  config.num_experts_per_tok = require_int(root, "num_experts_per_tok", 1, kMaxExperts);
  if (config.num_experts_per_tok > config.n_routed_experts) {
    root.bad(fmt::format("num_experts_per_tok is {}, more than the {} experts of {}", config.num_experts_per_tok,
                         config.n_routed_experts, experts_key));
  }
  config.moe_intermediate_size = require_int(root, "moe_intermediate_size", 1, kMaxDim);
  if (qwen) {
    config.router = RouterKind::kSoftmax;
    config.norm_topk_prob = root.flag("norm_topk_prob", false);
    return;
  }
  config.router = RouterKind::kSigmoid;
  allow_only(root, "scoring_func", "sigmoid");
  allow_only(root, "topk_method", "noaux_tc");
  config.norm_topk_prob = root.flag("norm_topk_prob", true);
  const double scale = get_positive(root, "routed_scaling_factor",
                                    config.architecture == Architecture::kDeepseekV3 ? 2.5 : kGlm4MoeLiteRoutedScale);
  config.routed_scaling_factor = static_cast<float>(scale);
  config.n_shared_experts =
      root.object().contains("n_shared_experts") ? get_int(root, "n_shared_experts", 0, 0, kMaxExperts) : 1;
  limit_product(root, "moe_intermediate_size * n_shared_experts", config.moe_intermediate_size,
                config.n_shared_experts);
  check_groups(root, config);
}

// Which layers route, by the rule of the architecture's own keys; nothing if none of them is given.
std::optional<std::vector<bool>> layers_by_rule(const JsonField& root, const ModelConfig& config) {
  const int layers = config.num_hidden_layers;
  std::vector<bool> is_moe(static_cast<std::size_t>(layers));
  if (config.architecture != Architecture::kQwen3Moe) {
    if (!root.find("first_k_dense_replace")) return std::nullopt;
    const int dense = require_int(root, "first_k_dense_replace", 0, kMaxLayers);
    if (get_int(root, "moe_layer_freq", 1, 1, kMaxLayers) != 1) root.unsupported("moe_layer_freq is not 1");
    for (int i = 0; i < layers; ++i) is_moe[static_cast<std::size_t>(i)] = i >= dense;
    return is_moe;
  }
  if (!root.find("decoder_sparse_step") && !root.find("mlp_only_layers")) return std::nullopt;
  const int step = get_int(root, "decoder_sparse_step", 1, 1, kMaxLayers);
  for (int i = 0; i < layers; ++i) is_moe[static_cast<std::size_t>(i)] = (i + 1) % step == 0;
  if (const auto dense = root.find("mlp_only_layers")) {
    for (std::size_t i = 0; i < dense->array_size(); ++i) {
      is_moe[static_cast<std::size_t>(to_int(dense->element(i), 0, layers - 1))] = false;
    }
  }
  return is_moe;
}

std::optional<std::vector<bool>> layers_by_list(const JsonField& root, const ModelConfig& config) {
  const auto types = root.find("mlp_layer_types");
  if (!types) return std::nullopt;
  if (types->array_size() != static_cast<std::size_t>(config.num_hidden_layers)) {
    types->bad(fmt::format("{} entries for {} layers", types->array_size(), config.num_hidden_layers));
  }
  std::vector<bool> is_moe;
  for (std::size_t i = 0; i < types->array_size(); ++i) {
    const JsonField entry = types->element(i);
    const std::string& type = entry.string();
    if (type != "sparse" && type != "dense") {
      entry.bad(fmt::format("\"{}\", expected \"dense\" or \"sparse\"", printable(type, 60)));
    }
    is_moe.push_back(type == "sparse");
  }
  return is_moe;
}

void read_layers(const JsonField& root, ModelConfig& config) {
  const auto listed = layers_by_list(root, config);
  const auto ruled = layers_by_rule(root, config);
  if (listed && ruled && *listed != *ruled) {
    root.bad("mlp_layer_types contradicts first_k_dense_replace, decoder_sparse_step or mlp_only_layers");
  }
  if (listed || ruled) {
    config.layer_is_moe = listed ? *listed : *ruled;
  } else {
    // Hugging Face: three dense layers first for DeepSeek, one for GLM, none for Qwen3.
    const int dense = config.architecture == Architecture::kDeepseekV3    ? 3
                      : config.architecture == Architecture::kGlm4MoeLite ? 1
                                                                          : 0;
    for (int i = 0; i < config.num_hidden_layers; ++i) config.layer_is_moe.push_back(i >= dense);
  }
  const auto moe_layers = std::count(config.layer_is_moe.begin(), config.layer_is_moe.end(), true);
  if (moe_layers < config.num_hidden_layers) {
    config.intermediate_size = require_int(root, "intermediate_size", 1, kMaxDim);
  }
  if (moe_layers * config.n_routed_experts > kMaxExpertsInModel) {
    root.bad(fmt::format("num_hidden_layers gives {} layers of {} experts, more than {} experts in all", moe_layers,
                         config.n_routed_experts, kMaxExpertsInModel));
  }
}

// Adds the token ids of one file: eos_token_id is null, an integer or an array of them.
void read_tokens(const JsonField& root, ModelConfig& config) {
  if (config.bos_token_id < 0) config.bos_token_id = get_int(root, "bos_token_id", -1, 0, config.vocab_size - 1);
  const auto eos = root.find("eos_token_id");
  if (!eos) return;
  const auto add = [&](const JsonField& field) {
    const int id = to_int(field, 0, config.vocab_size - 1);
    auto& ids = config.eos_token_ids;
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  };
  if (!eos->json().is_array()) return add(*eos);
  for (std::size_t i = 0; i < eos->array_size(); ++i) add(eos->element(i));
}

json parse_config_json(const std::string& text, const std::string& name) {
  return parse_json(text, name, {.max_bytes = kMaxConfigBytes});
}

}  // namespace

ModelConfig parse_model_config(const std::string& json_text, const std::string& name) {
  const json document = parse_config_json(json_text, name);
  const JsonField root(document, name);
  ModelConfig config{};
  read_architecture(root, config);
  read_common(root, config);
  read_rope(root, config);
  if (config.architecture == Architecture::kQwen3Moe) {
    read_gqa(root, config);
  } else {
    read_mla(root, config);
  }
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    root.bad(fmt::format("num_attention_heads is {}, not a multiple of num_key_value_heads {}",
                         config.num_attention_heads, config.num_key_value_heads));
  }
  read_experts(root, config);
  read_layers(root, config);
  read_tokens(root, config);
  return config;
}

ModelConfig load_model_config(const std::filesystem::path& model_dir) {
  const std::filesystem::path path = model_dir / "config.json";
  ModelConfig config = parse_model_config(read_text_file(path, kMaxConfigBytes), path.string());
  const std::filesystem::path generation = model_dir / "generation_config.json";
  if (is_present(generation)) {
    const std::string name = generation.string();
    const json document = parse_config_json(read_text_file(generation, kMaxConfigBytes), name);
    read_tokens(JsonField(document, name), config);
  }
  return config;
}

}  // namespace fairway::formats
