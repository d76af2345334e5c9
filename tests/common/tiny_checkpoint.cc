// Small random model directories, written on the fly: EXL3 with any widths, and the same weights dequantized.
#include "common/tiny_checkpoint.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "codec/half.h"
#include "common/random_trellis.h"
#include "formats/safetensors_writer.h"

namespace fairway::test {
namespace {

using formats::Architecture;
using formats::TensorType;
using nlohmann::json;

constexpr int kEndOfText = 256;

template <class T>
std::vector<std::uint8_t> to_bytes(const std::vector<T>& values) {
  std::vector<std::uint8_t> bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// Tensors of one checkpoint in the order they are made; the random numbers drawn do not depend on the form.
class TensorList {
 public:
  TensorList(const TinySpec& spec, TinyForm form) : spec_(spec), form_(form), random_(spec.seed) {}

  void linear(const std::string& prefix, int in, int out, int bits) {
    const auto codebook = spec_.all_codebooks ? static_cast<codec::Codebook>(linears_++ % 3) : spec_.codebook;
    const RandomTrellis matrix(in, out, bits, codebook, random_);
    if (form_ == TinyForm::kDequantizedF32) {
      return add(prefix + ".weight", TensorType::kF32, {out, in}, to_bytes(matrix.dequantized()));
    }
    add(prefix + ".trellis", TensorType::kI16, {matrix.padded_in / 16, matrix.padded_out / 16, 16 * bits},
        matrix.words);
    add(prefix + ".suh", TensorType::kF16, {matrix.padded_in}, to_bytes(matrix.suh_half));
    add(prefix + ".svh", TensorType::kF16, {matrix.padded_out}, to_bytes(matrix.svh_half));
    if (codebook == codec::Codebook::kMul1) flag(prefix + ".mul1", codec::kMul1Multiplier);
    if (codebook == codec::Codebook::kMcg) flag(prefix + ".mcg", codec::kMcgMultiplier);
  }

  // Stays unquantized in EXL3: F16 there, the same values as F32 in the dequantized form.
  void plain(const std::string& name, std::vector<std::int64_t> shape, float mean, float deviation) {
    std::size_t count = 1;
    for (const std::int64_t n : shape) count *= static_cast<std::size_t>(n);
    std::vector<std::uint16_t> halves(count);
    std::vector<float> floats(count);
    for (std::size_t i = 0; i < count; ++i) {
      halves[i] = codec::half_from_float(mean + deviation * random_.normal());
      floats[i] = codec::float_from_half(halves[i]);
    }
    if (form_ == TinyForm::kExl3) return add(name, TensorType::kF16, std::move(shape), to_bytes(halves));
    add(name, TensorType::kF32, std::move(shape), to_bytes(floats));
  }

  void norm(const std::string& name, int n) { plain(name, {n}, 1.0f, 0.1f); }

  void write(const std::filesystem::path& path) const {
    formats::SafetensorsWriter writer(path, specs_);
    for (const auto& data : data_) writer.write(data);
    writer.finish();
  }

 private:
  void flag(const std::string& name, codec::u32 multiplier) {
    add(name, TensorType::kI32, {}, to_bytes(std::vector<codec::u32>{multiplier}));
  }

  void add(std::string name, TensorType type, std::vector<std::int64_t> shape, std::vector<std::uint8_t> bytes) {
    specs_.push_back({std::move(name), type, std::move(shape)});
    data_.push_back(std::move(bytes));
  }

  const TinySpec& spec_;
  TinyForm form_;
  Random random_;
  int linears_ = 0;
  std::vector<formats::TensorSpec> specs_;
  std::vector<std::vector<std::uint8_t>> data_;
};

bool is_gqa(const TinySpec& spec) {
  return spec.architecture == Architecture::kQwen3Moe;
}

void add_attention(TensorList& list, const TinySpec& s, const std::string& p) {
  const int bits = s.attention_bits;
  if (is_gqa(s)) {
    list.linear(p + "q_proj", s.hidden, s.heads * s.head_dim, bits);
    list.linear(p + "k_proj", s.hidden, s.kv_heads * s.head_dim, bits);
    list.linear(p + "v_proj", s.hidden, s.kv_heads * s.head_dim, bits);
    list.linear(p + "o_proj", s.heads * s.head_dim, s.hidden, bits);
    list.norm(p + "q_norm.weight", s.head_dim);
    list.norm(p + "k_norm.weight", s.head_dim);
    return;
  }
  const int q_out = s.heads * (s.nope + s.rope);
  if (s.q_lora_rank > 0) {
    list.linear(p + "q_a_proj", s.hidden, s.q_lora_rank, bits);
    list.norm(p + "q_a_layernorm.weight", s.q_lora_rank);
    list.linear(p + "q_b_proj", s.q_lora_rank, q_out, bits);
  } else {
    list.linear(p + "q_proj", s.hidden, q_out, bits);
  }
  list.linear(p + "kv_a_proj_with_mqa", s.hidden, s.kv_lora_rank + s.rope, bits);
  list.norm(p + "kv_a_layernorm.weight", s.kv_lora_rank);
  list.plain(p + "kv_b_proj.weight", {s.heads * (s.nope + s.v), s.kv_lora_rank}, 0.0f,
             1.0f / std::sqrt(static_cast<float>(s.kv_lora_rank)));
  list.linear(p + "o_proj", s.heads * s.v, s.hidden, bits);
}

void add_expert(TensorList& list, const std::string& p, int hidden, int intermediate, kernels::BitTuple bits,
                bool plain_up = false) {
  list.linear(p + "gate_proj", hidden, intermediate, bits.gate);
  if (plain_up) {
    list.plain(p + "up_proj.weight", {intermediate, hidden}, 0.0f, 0.1f);
  } else {
    list.linear(p + "up_proj", hidden, intermediate, bits.up);
  }
  list.linear(p + "down_proj", intermediate, hidden, bits.down);
}

void add_mlp(TensorList& list, const TinySpec& s, int layer, const std::string& p) {
  const std::uint8_t dense = static_cast<std::uint8_t>(s.dense_bits);
  if (!is_gqa(s) && layer < s.dense_layers) {
    return add_expert(list, p, s.hidden, s.dense_intermediate, {dense, dense, dense});
  }
  list.plain(p + "gate.weight", {s.experts, s.hidden}, 0.0f, 1.0f / std::sqrt(static_cast<float>(s.hidden)));
  if (!is_gqa(s)) list.plain(p + "gate.e_score_correction_bias", {s.experts}, 0.0f, 0.1f);
  for (int e = 0; e < s.experts; ++e) {
    const kernels::BitTuple bits = s.expert_bits(layer, e);
    add_expert(list, fmt::format("{}experts.{}.", p, e), s.hidden, s.expert_intermediate, bits,
               e == s.expert_with_plain_up);
  }
  if (!is_gqa(s) && s.shared_experts > 0) {
    add_expert(list, p + "shared_experts.", s.hidden, s.expert_intermediate * s.shared_experts, {dense, dense, dense});
  }
}

json common_config(const TinySpec& s) {
  return {{"vocab_size", s.vocab},
          {"hidden_size", s.hidden},
          {"num_hidden_layers", s.layers},
          {"num_attention_heads", s.heads},
          {"max_position_embeddings", s.max_positions},
          {"rms_norm_eps", 1e-5},
          {"tie_word_embeddings", s.tie_word_embeddings},
          {"hidden_act", "silu"},
          {"attention_bias", false},
          {"intermediate_size", s.dense_intermediate},
          {"moe_intermediate_size", s.expert_intermediate},
          {"num_experts_per_tok", s.top_k},
          {"norm_topk_prob", true},
          {"rope_theta", 10000.0},
          {"bos_token_id", kEndOfText},
          {"eos_token_id", kEndOfText}};
}

json make_config(const TinySpec& s) {
  json config = common_config(s);
  if (is_gqa(s)) {
    config.update({{"architectures", json::array({"Qwen3MoeForCausalLM"})},
                   {"model_type", "qwen3_moe"},
                   {"num_experts", s.experts},
                   {"num_key_value_heads", s.kv_heads},
                   {"head_dim", s.head_dim},
                   {"decoder_sparse_step", 1},
                   {"mlp_only_layers", json::array()}});
    return config;
  }
  config.update({{"num_key_value_heads", s.heads},
                 {"kv_lora_rank", s.kv_lora_rank},
                 {"qk_nope_head_dim", s.nope},
                 {"qk_rope_head_dim", s.rope},
                 {"v_head_dim", s.v},
                 {"rope_interleave", s.rope_interleave},
                 {"n_routed_experts", s.experts},
                 {"n_shared_experts", s.shared_experts},
                 {"n_group", 1},
                 {"topk_group", 1},
                 {"routed_scaling_factor", 1.5}});
  config["q_lora_rank"] = s.q_lora_rank > 0 ? json(s.q_lora_rank) : json(nullptr);
  if (s.architecture == Architecture::kDeepseekV3) {
    config.update({{"architectures", json::array({"DeepseekV3ForCausalLM"})},
                   {"model_type", "deepseek_v3"},
                   {"scoring_func", "sigmoid"},
                   {"topk_method", "noaux_tc"},
                   {"first_k_dense_replace", s.dense_layers}});
    return config;
  }
  config.update({{"architectures", json::array({"Glm4MoeLiteForCausalLM"})}, {"model_type", "glm4_moe_lite"}});
  json types = json::array();
  for (int layer = 0; layer < s.layers; ++layer) types.push_back(layer < s.dense_layers ? "dense" : "sparse");
  config["mlp_layer_types"] = types;
  return config;
}

// Printable stand-in for a byte, as byte-level tokenizers write their vocabulary, in UTF-8.
std::string byte_symbol(int byte, int& next_stand_in) {
  const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  const int code = printable ? byte : next_stand_in++;
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

json make_tokenizer() {
  json vocab = json::object();
  int next_stand_in = 256;
  for (int byte = 0; byte < 256; ++byte) vocab[byte_symbol(byte, next_stand_in)] = byte;
  const json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const json end_of_text = {{"id", kEndOfText}, {"content", "<|endoftext|>"}, {"single_word", false}, {"lstrip", false},
                            {"rstrip", false},  {"normalized", false},        {"special", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", json::array({end_of_text})},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", json::array()}}}};
}

void write_json(const std::filesystem::path& path, const json& value) {
  std::ofstream file(path);
  file << value.dump(1) << '\n';
  if (!file.flush()) throw std::runtime_error("cannot write " + path.string());
}

}  // namespace

TempDir::TempDir() {
  std::string name = (std::filesystem::temp_directory_path() / "fairway-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed for " + name);
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;  // a leftover directory must not turn into a failed test
  std::filesystem::remove_all(path_, ignored);
}

kernels::BitTuple different_bits(int layer, int expert) {
  const int e = expert + 7 * layer;
  return {static_cast<std::uint8_t>(1 + e % 8), static_cast<std::uint8_t>(1 + (3 * e + e / 8) % 8),
          static_cast<std::uint8_t>(1 + (5 * e + 2 * (e / 8)) % 8)};
}

void write_tiny_checkpoint(const std::filesystem::path& dir, const TinySpec& spec, TinyForm form) {
  TensorList list(spec, form);
  list.plain("model.embed_tokens.weight", {spec.vocab, spec.hidden}, 0.0f, 1.0f);
  for (int layer = 0; layer < spec.layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    list.norm(prefix + "input_layernorm.weight", spec.hidden);
    list.norm(prefix + "post_attention_layernorm.weight", spec.hidden);
    add_attention(list, spec, prefix + "self_attn.");
    add_mlp(list, spec, layer, prefix + "mlp.");
  }
  list.norm("model.norm.weight", spec.hidden);
  if (!spec.tie_word_embeddings) list.linear("lm_head", spec.hidden, spec.vocab, spec.head_bits);

  json config = make_config(spec);
  if (form == TinyForm::kExl3) config["quantization_config"] = {{"quant_method", "exl3"}};
  std::filesystem::create_directories(dir);
  write_json(dir / "config.json", config);
  write_json(dir / "tokenizer.json", make_tokenizer());
  write_json(dir / "tokenizer_config.json", {{"bos_token", "<|endoftext|>"}, {"add_bos_token", true}});
  list.write(dir / "model.safetensors");
}

}  // namespace fairway::test
