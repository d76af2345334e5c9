// Tensor names and sizes of the supported architectures.
#include "formats/model_layout.h"

#include <fmt/format.h>

#include <utility>

#include "fairway/error.h"

namespace fairway::formats {
namespace {

// Collects the linears of one layer; prefix and layer number are the same for all of them.
class LayerList {
 public:
  LayerList(int layer, std::string prefix) : layer_(layer), prefix_(std::move(prefix)) {}

  LinearSpec& add(LinearRole role, const std::string& key, int in, int out) {
    list_.push_back({.prefix = prefix_ + key, .in = in, .out = out, .role = role, .layer = layer_});
    return list_.back();
  }
  void add_mlp(LinearRole role, const std::string& key, int hidden, int intermediate, int expert = -1) {
    add(role, key + "gate_proj", hidden, intermediate).expert = expert;
    add(role, key + "up_proj", hidden, intermediate).expert = expert;
    add(role, key + "down_proj", intermediate, hidden).expert = expert;
  }
  std::vector<LinearSpec> take() { return std::move(list_); }

 private:
  int layer_;
  std::string prefix_;
  std::vector<LinearSpec> list_;
};

void add_mla(const ModelConfig& c, LayerList& list) {
  const auto add = [&](const char* key, int in, int out) -> LinearSpec& {
    return list.add(LinearRole::kAttention, std::string("self_attn.") + key, in, out);
  };
  const int heads = c.num_attention_heads;
  const int q_out = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim);
  if (c.q_lora_rank > 0) {
    add("q_a_proj", c.hidden_size, c.q_lora_rank).bias = c.attention_bias;
    add("q_b_proj", c.q_lora_rank, q_out);
  } else {
    add("q_proj", c.hidden_size, q_out);
  }
  add("kv_a_proj_with_mqa", c.hidden_size, c.kv_lora_rank + c.qk_rope_head_dim).bias = c.attention_bias;
  add("kv_b_proj", c.kv_lora_rank, heads * (c.qk_nope_head_dim + c.v_head_dim)).dense_only = true;
  add("o_proj", heads * c.v_head_dim, c.hidden_size).bias = c.attention_bias;
}

void add_gqa(const ModelConfig& c, LayerList& list) {
  const auto add = [&](const char* key, int in, int out) {
    list.add(LinearRole::kAttention, std::string("self_attn.") + key, in, out).bias = c.attention_bias;
  };
  const int q_out = c.num_attention_heads * c.head_dim;
  const int kv_out = c.num_key_value_heads * c.head_dim;
  add("q_proj", c.hidden_size, q_out);
  add("k_proj", c.hidden_size, kv_out);
  add("v_proj", c.hidden_size, kv_out);
  add("o_proj", q_out, c.hidden_size);
}

LinearSpec vocabulary_matrix(const ModelConfig& c, const char* prefix, LinearRole role) {
  return {.prefix = prefix, .in = c.hidden_size, .out = c.vocab_size, .role = role, .allow_padded_out = true};
}

}  // namespace

const char* linear_role_name(LinearRole role) {
  constexpr const char* kNames[] = {"embedding", "attention", "router", "dense_mlp", "shared_expert", "expert", "head"};
  return kNames[static_cast<std::size_t>(role)];
}

std::string layer_prefix(int layer) {
  return fmt::format("model.layers.{}.", layer);
}

std::vector<LinearSpec> layer_linears(const ModelConfig& c, int layer) {
  LayerList list(layer, layer_prefix(layer));
  if (c.attention == AttentionKind::kMla) {
    add_mla(c, list);
  } else {
    add_gqa(c, list);
  }
  if (!c.layer_is_moe[static_cast<std::size_t>(layer)]) {
    list.add_mlp(LinearRole::kDenseMlp, "mlp.", c.hidden_size, c.intermediate_size);
    return list.take();
  }
  list.add(LinearRole::kRouter, "mlp.gate", c.hidden_size, c.n_routed_experts).dense_only = true;
  for (int e = 0; e < c.n_routed_experts; ++e) {
    list.add_mlp(LinearRole::kExpert, fmt::format("mlp.experts.{}.", e), c.hidden_size, c.moe_intermediate_size, e);
  }
  if (c.n_shared_experts > 0) {
    list.add_mlp(LinearRole::kSharedExpert, "mlp.shared_experts.", c.hidden_size, c.shared_intermediate_size());
  }
  return list.take();
}

std::vector<VectorSpec> layer_vectors(const ModelConfig& c, int layer) {
  const std::string prefix = layer_prefix(layer);
  std::vector<VectorSpec> list;
  const auto add = [&](const char* name, int count) { list.push_back({prefix + name, count, layer}); };
  add("input_layernorm.weight", c.hidden_size);
  if (c.attention == AttentionKind::kGqa) {
    add("self_attn.q_norm.weight", c.head_dim);
    add("self_attn.k_norm.weight", c.head_dim);
  } else {
    if (c.q_lora_rank > 0) add("self_attn.q_a_layernorm.weight", c.q_lora_rank);
    add("self_attn.kv_a_layernorm.weight", c.kv_lora_rank);
  }
  add("post_attention_layernorm.weight", c.hidden_size);
  if (c.layer_is_moe[static_cast<std::size_t>(layer)] && c.router == RouterKind::kSigmoid) {
    add("mlp.gate.e_score_correction_bias", c.n_routed_experts);
  }
  return list;
}

void visit_linears(const ModelConfig& config, const std::function<bool(const LinearSpec&)>& visit) {
  LinearSpec embedding = vocabulary_matrix(config, "model.embed_tokens", LinearRole::kEmbedding);
  embedding.dense_only = true;
  if (!visit(embedding)) return;
  for (int layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (const LinearSpec& spec : layer_linears(config, layer)) {
      if (!visit(spec)) return;
    }
  }
  LinearSpec head = vocabulary_matrix(config, "lm_head", LinearRole::kHead);
  head.optional = config.tie_word_embeddings;
  visit(head);
}

std::vector<LinearSpec> expected_linears(const ModelConfig& config) {
  std::vector<LinearSpec> list;
  visit_linears(config, [&](const LinearSpec& spec) {
    list.push_back(spec);
    return true;
  });
  return list;
}

std::vector<VectorSpec> expected_vectors(const ModelConfig& config) {
  std::vector<VectorSpec> list;
  for (int layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (VectorSpec& spec : layer_vectors(config, layer)) list.push_back(std::move(spec));
  }
  list.push_back({"model.norm.weight", config.hidden_size, -1});
  return list;
}

kernels::LinearWeights load_linear(const Checkpoint& checkpoint, const LinearSpec& spec, WidenedMatrices* widened) {
  const auto linear = checkpoint.linear(spec.prefix, spec.in, spec.out, spec.allow_padded_out, widened);
  const std::string directory = checkpoint.directory().string();
  if (spec.dense_only && linear.is_trellis()) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{}: tensor \"{}.trellis\": this linear must be a plain {}.weight",
                                                     directory, spec.prefix, spec.prefix));
  }
  if (spec.bias && checkpoint.find(spec.prefix + ".bias") == nullptr) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: tensor \"{}.bias\" is missing, but attention_bias is true", directory, spec.prefix));
  }
  return linear;
}

bool uses_tied_head(const ModelConfig& config, const Checkpoint& checkpoint) {
  return config.tie_word_embeddings && !checkpoint.has_trellis("lm_head");
}

}  // namespace fairway::formats
