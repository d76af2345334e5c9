// A model's config.json (and generation_config.json), validated and brought to one vocabulary.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace fairway::formats {

enum class Architecture { kGlm4MoeLite, kDeepseekV3, kQwen3Moe };
enum class AttentionKind { kMla, kGqa };
enum class RouterKind { kSigmoid, kSoftmax };

// Weights that share one scale in an fp8 matrix.
struct Fp8Block {
  int rows = 128, columns = 128;
  bool operator==(const Fp8Block&) const = default;
};

// What Hugging Face's Glm4MoeLite takes for keys that are absent.
constexpr double kGlm4MoeLiteNormEps = 1e-5;
constexpr double kGlm4MoeLiteRoutedScale = 1.8;

// Names follow the Hugging Face keys. Every value was checked for range and consistency.
struct ModelConfig {
  Architecture architecture;
  std::string architecture_name;  // as in config.json, e.g. "Glm4MoeLiteForCausalLM"

  int vocab_size, hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads;
  int max_position_embeddings;
  float rms_norm_eps;
  float latent_norm_eps =
      1e-6f;  // MLA: of q_a_layernorm and kv_a_layernorm, which Hugging Face leaves at the class default
  bool tie_word_embeddings = false;

  AttentionKind attention;
  bool attention_bias = false;
  int q_lora_rank = 0;                                                               // MLA; 0: one q_proj
  int kv_lora_rank = 0, qk_nope_head_dim = 0, qk_rope_head_dim = 0, v_head_dim = 0;  // MLA
  int head_dim = 0;                                                                  // GQA

  double rope_theta = 10000.0;
  bool rope_interleave = false;  // true: pairs (2i, 2i+1); false: pairs (i, i + dim/2)

  int intermediate_size = 0;       // dense layers
  std::vector<bool> layer_is_moe;  // [num_hidden_layers]
  int n_routed_experts = 0, num_experts_per_tok = 0, moe_intermediate_size = 0, n_shared_experts = 0;
  RouterKind router = RouterKind::kSoftmax;
  bool norm_topk_prob = true;
  float routed_scaling_factor = 1.0f;

  int bos_token_id = -1;           // -1: none
  std::vector<int> eos_token_ids;  // may be empty; union of config.json and generation_config.json

  Fp8Block fp8_block;  // quantization_config.weight_block_size; of no meaning to tensors that are not fp8

  int shared_intermediate_size() const { return moe_intermediate_size * n_shared_experts; }
  bool operator==(const ModelConfig&) const = default;
};

// Reads DIR/config.json. Throws Error(kBadInput) naming file, key and value; Error(kUnsupported) for another
// architecture, more than one expert group, a rope scaling, an activation other than silu, and the like.
ModelConfig load_model_config(const std::filesystem::path& model_dir);

// The same from text, for tests and fuzzing; `name` stands for the file in messages.
ModelConfig parse_model_config(const std::string& json_text, const std::string& name);

}  // namespace fairway::formats
