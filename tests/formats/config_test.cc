// config.json of the three architectures in both spellings, the defaults of absent keys, and what is refused.
#include "formats/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "formats/model_files.h"

namespace fairway::formats {
namespace {

using nlohmann::json;
using test::catch_error;
using test::TempDir;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

// The keys of GLM-4.7-Flash, older spelling.
json glm_config() {
  return {{"architectures", {"Glm4MoeLiteForCausalLM"}},
          {"vocab_size", 154880},
          {"hidden_size", 2048},
          {"intermediate_size", 10240},
          {"moe_intermediate_size", 1536},
          {"num_hidden_layers", 47},
          {"num_attention_heads", 20},
          {"num_key_value_heads", 20},
          {"n_shared_experts", 1},
          {"n_routed_experts", 64},
          {"routed_scaling_factor", 1.8},
          {"kv_lora_rank", 512},
          {"q_lora_rank", 768},
          {"qk_rope_head_dim", 64},
          {"v_head_dim", 256},
          {"qk_nope_head_dim", 192},
          {"n_group", 1},
          {"topk_group", 1},
          {"topk_method", "noaux_tc"},
          {"num_experts_per_tok", 4},
          {"first_k_dense_replace", 1},
          {"norm_topk_prob", true},
          {"hidden_act", "silu"},
          {"max_position_embeddings", 202752},
          {"partial_rotary_factor", 1.0},
          {"rms_norm_eps", 1e-5},
          {"rope_scaling", nullptr},
          {"rope_theta", 1000000},
          {"tie_word_embeddings", false},
          {"eos_token_id", {154820, 154827, 154829}}};
}

json qwen_config() {
  return {{"architectures", {"Qwen3MoeForCausalLM"}},
          {"attention_bias", false},
          {"bos_token_id", 151643},
          {"decoder_sparse_step", 1},
          {"eos_token_id", 151645},
          {"head_dim", 128},
          {"hidden_act", "silu"},
          {"hidden_size", 2048},
          {"intermediate_size", 6144},
          {"max_position_embeddings", 40960},
          {"mlp_only_layers", json::array()},
          {"moe_intermediate_size", 768},
          {"norm_topk_prob", true},
          {"num_attention_heads", 32},
          {"num_experts", 128},
          {"num_experts_per_tok", 8},
          {"num_hidden_layers", 48},
          {"num_key_value_heads", 4},
          {"rms_norm_eps", 1e-6},
          {"rope_scaling", nullptr},
          {"rope_theta", 1000000.0},
          {"sliding_window", nullptr},
          {"use_sliding_window", false},
          {"tie_word_embeddings", false},
          {"vocab_size", 151936}};
}

json deepseek_config() {
  json config = glm_config();
  config["architectures"] = {"DeepseekV3ForCausalLM"};
  config["scoring_func"] = "sigmoid";
  return config;
}

ModelConfig parse(const json& config) {
  return parse_model_config(config.dump(), "config.json");
}

json with(json config, const char* key, json value) {
  config[key] = std::move(value);
  return config;
}

json without(json config, const char* key) {
  config.erase(key);
  return config;
}

TEST(Config, Glm) {
  const ModelConfig c = parse(glm_config());
  EXPECT_EQ(c.architecture, Architecture::kGlm4MoeLite);
  EXPECT_EQ(c.architecture_name, "Glm4MoeLiteForCausalLM");
  EXPECT_EQ(c.attention, AttentionKind::kMla);
  EXPECT_EQ(c.vocab_size, 154880);
  EXPECT_EQ(c.q_lora_rank, 768);
  EXPECT_EQ(c.kv_lora_rank, 512);
  EXPECT_EQ(c.qk_nope_head_dim, 192);
  EXPECT_EQ(c.qk_rope_head_dim, 64);
  EXPECT_EQ(c.v_head_dim, 256);
  EXPECT_EQ(c.rope_theta, 1e6);
  EXPECT_TRUE(c.rope_interleave);
  EXPECT_EQ(c.rms_norm_eps, 1e-5f);
  EXPECT_EQ(c.latent_norm_eps, 1e-6f);
  EXPECT_EQ(c.router, RouterKind::kSigmoid);
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_EQ(c.routed_scaling_factor, 1.8f);
  EXPECT_EQ(c.n_routed_experts, 64);
  EXPECT_EQ(c.num_experts_per_tok, 4);
  EXPECT_EQ(c.shared_intermediate_size(), 1536);
  ASSERT_EQ(c.layer_is_moe.size(), 47u);
  EXPECT_FALSE(c.layer_is_moe[0]);
  EXPECT_TRUE(c.layer_is_moe[1]);
  EXPECT_EQ(c.bos_token_id, -1);
  EXPECT_THAT(c.eos_token_ids, ElementsAre(154820, 154827, 154829));
}

TEST(Config, Qwen) {
  const ModelConfig c = parse(qwen_config());
  EXPECT_EQ(c.architecture, Architecture::kQwen3Moe);
  EXPECT_EQ(c.attention, AttentionKind::kGqa);
  EXPECT_EQ(c.num_key_value_heads, 4);
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_FALSE(c.rope_interleave);
  EXPECT_EQ(c.router, RouterKind::kSoftmax);
  EXPECT_EQ(c.routed_scaling_factor, 1.0f);
  EXPECT_EQ(c.n_routed_experts, 128);
  EXPECT_EQ(c.n_shared_experts, 0);
  EXPECT_EQ(c.layer_is_moe, std::vector<bool>(48, true));
  EXPECT_EQ(c.bos_token_id, 151643);
  EXPECT_THAT(c.eos_token_ids, ElementsAre(151645));
}

TEST(Config, BundledModelAndItsGenerationConfig) {
  const ModelConfig c = load_model_config(std::filesystem::path(FAIRWAY_SOURCE_DIR) / "models/books-moe");
  EXPECT_EQ(c.architecture, Architecture::kDeepseekV3);
  EXPECT_EQ(c.hidden_size, 384);
  EXPECT_EQ(c.num_hidden_layers, 8);
  EXPECT_EQ(c.bos_token_id, 0);
  EXPECT_THAT(c.eos_token_ids, ElementsAre(0));
  EXPECT_EQ(std::count(c.layer_is_moe.begin(), c.layer_is_moe.end(), true), 7);
}

TEST(Config, NewSpellings) {
  json config = without(without(glm_config(), "rope_theta"), "first_k_dense_replace");
  config["rope_parameters"] = {{"rope_theta", 5000.0}, {"rope_type", "default"}};
  config["mlp_layer_types"] = std::vector<std::string>(47, "sparse");
  config["mlp_layer_types"][46] = "dense";
  const ModelConfig c = parse(config);
  EXPECT_EQ(c.rope_theta, 5000.0);
  EXPECT_TRUE(c.layer_is_moe[0]);
  EXPECT_FALSE(c.layer_is_moe[46]);
  EXPECT_EQ(parse(with(without(qwen_config(), "num_experts"), "num_local_experts", 16)).n_routed_experts, 16);
}

TEST(Config, BlocksOfFp8) {
  EXPECT_EQ(parse(glm_config()).fp8_block.rows, 128);
  json fp8 = {{"quant_method", "fp8"}, {"activation_scheme", "dynamic"}};
  EXPECT_EQ(parse(with(glm_config(), "quantization_config", fp8)).fp8_block.columns, 128);
  fp8["weight_block_size"] = {64, 32};
  const ModelConfig c = parse(with(glm_config(), "quantization_config", fp8));
  EXPECT_EQ(c.fp8_block.rows, 64);
  EXPECT_EQ(c.fp8_block.columns, 32);
}

TEST(Config, DefaultsAreThoseOfHuggingFace) {
  json glm = glm_config();
  for (const char* key :
       {"rms_norm_eps", "norm_topk_prob", "routed_scaling_factor", "n_shared_experts", "n_group", "topk_group",
        "first_k_dense_replace", "rope_theta", "hidden_act", "tie_word_embeddings", "eos_token_id"}) {
    glm.erase(key);
  }
  ModelConfig c = parse(glm);
  EXPECT_EQ(c.rms_norm_eps, 1e-5f);
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_EQ(c.routed_scaling_factor, 1.8f);
  EXPECT_EQ(c.n_shared_experts, 1);
  EXPECT_EQ(c.rope_theta, 10000.0);
  EXPECT_EQ(std::count(c.layer_is_moe.begin(), c.layer_is_moe.end(), false), 1);
  EXPECT_THAT(c.eos_token_ids, IsEmpty());

  c = parse(
      without(without(without(deepseek_config(), "rms_norm_eps"), "routed_scaling_factor"), "first_k_dense_replace"));
  EXPECT_EQ(c.rms_norm_eps, 1e-6f);
  EXPECT_EQ(c.routed_scaling_factor, 2.5f);
  EXPECT_EQ(std::count(c.layer_is_moe.begin(), c.layer_is_moe.end(), false), 3);

  c = parse(without(without(without(qwen_config(), "norm_topk_prob"), "head_dim"), "decoder_sparse_step"));
  EXPECT_FALSE(c.norm_topk_prob);
  EXPECT_EQ(c.head_dim, 64);
}

TEST(Config, NullRankAndNullSharedExperts) {
  EXPECT_EQ(parse(with(glm_config(), "q_lora_rank", nullptr)).q_lora_rank, 0);
  EXPECT_EQ(parse(with(glm_config(), "n_shared_experts", nullptr)).n_shared_experts, 0);
  EXPECT_FALSE(parse(with(glm_config(), "rope_interleave", false)).rope_interleave);
}

TEST(Config, QwenSparsePattern) {
  json config = with(with(qwen_config(), "num_hidden_layers", 6), "decoder_sparse_step", 2);
  EXPECT_EQ(parse(config).layer_is_moe, (std::vector<bool>{false, true, false, true, false, true}));
  config["mlp_only_layers"] = {3};
  EXPECT_EQ(parse(config).layer_is_moe, (std::vector<bool>{false, true, false, false, false, true}));
  EXPECT_EQ(parse(config).intermediate_size, 6144);
}

TEST(Config, GenerationConfigAddsEndTokens) {
  const TempDir dir;
  test::write_file(dir.path() / "config.json", qwen_config().dump());
  EXPECT_THAT(load_model_config(dir.path()).eos_token_ids, ElementsAre(151645));
  test::write_file(dir.path() / "generation_config.json",
                   json{{"eos_token_id", {151645, 151643}}, {"bos_token_id", 5}}.dump());
  const ModelConfig c = load_model_config(dir.path());
  EXPECT_THAT(c.eos_token_ids, ElementsAre(151645, 151643));
  EXPECT_EQ(c.bos_token_id, 151643);  // config.json comes first
  test::write_file(dir.path() / "generation_config.json", "{\"eos_token_id\": 151936}");
  EXPECT_THAT(catch_error([&] { load_model_config(dir.path()); }).message,
              AllOf(HasSubstr("generation_config.json"), HasSubstr("eos_token_id"), HasSubstr("151936")));
  test::write_file(dir.path() / "generation_config.json", "[]");
  EXPECT_THAT(catch_error([&] { load_model_config(dir.path()); }).message, HasSubstr("generation_config.json"));
}

struct Refused {
  const char* key;
  json value;
  std::vector<std::string> parts;  // of the message
  ErrorKind kind = ErrorKind::kBadInput;
};

void expect_refused(const json& base, const std::vector<Refused>& rows) {
  for (const Refused& row : rows) {
    const auto caught = catch_error([&] { parse(with(base, row.key, row.value)); });
    EXPECT_THAT(caught.message, StartsWith("config.json: ")) << row.key << " = " << row.value;
    EXPECT_EQ(caught.kind, row.kind) << caught.message;
    for (const auto& part : row.parts) EXPECT_THAT(caught.message, HasSubstr(part));
    EXPECT_EQ(caught.message.find('\n'), std::string::npos);
  }
}

TEST(Config, RefusesMla) {
  constexpr auto kUnsupported = ErrorKind::kUnsupported;
  expect_refused(
      deepseek_config(),
      {{"architectures", {"LlamaForCausalLM"}, {"LlamaForCausalLM", "Qwen3MoeForCausalLM"}, kUnsupported},
       {"architectures", {"bad\nname"}, {"bad\\x0aname"}, kUnsupported},
       {"architectures", json::array(), {"architectures", "empty"}},
       {"architectures", {7}, {"architectures[0]", "a string", "7"}},
       {"architectures", "DeepseekV3ForCausalLM", {"architectures", "an array"}},
       {"vocab_size", -5, {"vocab_size", "-5"}},
       {"vocab_size", 0, {"vocab_size", "0"}},
       {"vocab_size", nullptr, {"vocab_size", "null"}},
       {"vocab_size", 1 << 25, {"vocab_size", "33554432"}},
       {"vocab_size", UINT64_MAX, {"vocab_size", "18446744073709551615"}},
       {"hidden_size", 384.5, {"hidden_size", "384.5", "integer"}},
       {"hidden_size", "384", {"hidden_size", "integer"}},
       {"num_hidden_layers", 5000, {"num_hidden_layers", "4096"}},
       {"num_attention_heads", 1 << 20, {"num_attention_heads", "qk_nope_head_dim"}},
       {"num_key_value_heads", 3, {"num_attention_heads", "20", "3"}},
       {"rms_norm_eps", 0, {"rms_norm_eps", "0"}},
       {"rms_norm_eps", -1e-5, {"rms_norm_eps"}},
       {"rms_norm_eps", 1e-300, {"rms_norm_eps"}},
       {"rms_norm_eps", true, {"rms_norm_eps", "true"}},
       {"rope_theta", "x", {"rope_theta"}},
       {"rope_scaling", {{"type", "yarn"}, {"factor", 4}}, {"rope_scaling", "yarn"}, kUnsupported},
       {"rope_parameters", {{"rope_type", "llama3"}}, {"rope_parameters.rope_type", "llama3"}, kUnsupported},
       {"rope_parameters", {{"partial_rotary_factor", 0.5}}, {"partial_rotary_factor", "0.5"}, kUnsupported},
       {"rope_parameters", 3, {"rope_parameters", "an object"}},
       {"partial_rotary_factor", 0.5, {"partial_rotary_factor"}, kUnsupported},
       {"hidden_act", "gelu", {"hidden_act", "gelu", "silu"}, kUnsupported},
       {"hidden_act", 1, {"hidden_act", "a string"}},
       {"n_group", 8, {"n_group", "8", "one expert group"}, kUnsupported},
       {"n_group", nullptr, {"n_group", "8", "default"}, kUnsupported},
       {"topk_group", 4, {"topk_group", "4"}, kUnsupported},
       {"scoring_func", "softmax", {"scoring_func", "softmax"}, kUnsupported},
       {"topk_method", "greedy", {"topk_method", "greedy"}, kUnsupported},
       {"num_experts_per_tok", 65, {"num_experts_per_tok", "65", "64"}},
       {"n_routed_experts", 100000, {"n_routed_experts", "100000"}},
       {"n_routed_experts", 65536, {"46 layers", "65536"}},
       {"n_shared_experts", -1, {"n_shared_experts", "-1"}},
       {"n_shared_experts", 65536, {"n_shared_experts", "larger than"}},
       {"routed_scaling_factor", 1e300, {"routed_scaling_factor"}},
       {"qk_rope_head_dim", 63, {"qk_rope_head_dim", "63", "even"}},
       {"qk_head_dim", 100, {"qk_head_dim", "256"}},
       {"moe_layer_freq", 2, {"moe_layer_freq"}, kUnsupported},
       {"mlp_layer_types", json::array({"dense"}), {"mlp_layer_types", "1 entries", "47"}},
       {"mlp_layer_types", std::vector<std::string>(47, "sparse"), {"mlp_layer_types", "contradicts"}},
       {"mlp_layer_types", std::vector<std::string>(47, "other"), {"mlp_layer_types[0]", "other"}},
       {"attention_bias", 1, {"attention_bias", "true or false"}},
       {"quantization_config", {{"quant_method", "gptq"}}, {"quantization_config.quant_method", "gptq"}, kUnsupported},
       {"quantization_config", {{"quant_method", 8}}, {"quantization_config.quant_method", "a string"}},
       {"quantization_config",
        {{"quant_method", "fp8"}, {"weight_block_size", {128}}},
        {"weight_block_size", "rows and columns"}},
       {"quantization_config",
        {{"quant_method", "fp8"}, {"weight_block_size", {128, 0}}},
        {"weight_block_size[1]", "0"}},
       {"eos_token_id", 154880, {"eos_token_id", "154880"}},
       {"eos_token_id", {1, "x"}, {"eos_token_id[1]", "x"}},
       {"bos_token_id", -2, {"bos_token_id", "-2"}}});
}

TEST(Config, RefusesQwen) {
  expect_refused(
      qwen_config(),
      {{"use_sliding_window", true, {"use_sliding_window", "not supported"}, ErrorKind::kUnsupported},
       {"head_dim", 127, {"head_dim", "127"}},
       {"num_key_value_heads", 5, {"num_key_value_heads", "5"}},
       {"num_key_value_heads", nullptr, {"num_key_value_heads"}},
       {"mlp_only_layers", {48}, {"mlp_only_layers[0]", "48"}},
       {"decoder_sparse_step", 0, {"decoder_sparse_step", "0"}},
       {"num_experts", 0, {"num_experts", "0"}},
       {"rope_scaling", {{"rope_type", "yarn"}}, {"rope_scaling.rope_type", "yarn"}, ErrorKind::kUnsupported}});
  EXPECT_THAT(catch_error([] { parse(with(without(qwen_config(), "head_dim"), "hidden_size", 2047)); }).message,
              AllOf(HasSubstr("head_dim"), HasSubstr("2047")));
}

TEST(Config, RequiredKeysAreNamedWhenMissing) {
  for (const char* key :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
        "kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "n_routed_experts",
        "num_experts_per_tok", "moe_intermediate_size", "intermediate_size", "architectures"}) {
    EXPECT_THAT(catch_error([&] { parse(without(glm_config(), key)); }).message,
                AllOf(HasSubstr(key), HasSubstr("missing")))
        << key;
  }
}

TEST(Config, RefusesWhatIsNotAnObject) {
  for (const char* text : {"[]", "3", "null", "", "{"}) {
    EXPECT_THAT(catch_error([&] { parse_model_config(text, "config.json"); }).message, StartsWith("config.json: "))
        << text;
  }
}

}  // namespace
}  // namespace fairway::formats
