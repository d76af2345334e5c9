// fairway synth: what it writes is a model that every other command accepts.
#include <gtest/gtest.h>

#include <map>
#include <utility>

#include "cli/process.h"
#include "common/tiny_checkpoint.h"

namespace fairway::test {
namespace {

namespace fs = std::filesystem;

const char* const kTinyQwen = R"({
  "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 200, "num_hidden_layers": 3, "num_attention_heads": 4,
  "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 300, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
  "hidden_act": "silu", "intermediate_size": 256, "moe_intermediate_size": 96, "num_experts": 6, "num_experts_per_tok": 2,
  "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [1, 2], "rope_theta": 10000.0,
  "tie_word_embeddings": false, "eos_token_id": 0})";

class Synth : public ::testing::Test {
 protected:
  std::string path(const char* name) const { return (dir_.path() / name).string(); }
  ProcessResult synth(const std::string& config, const std::string& bits, const std::string& out,
                      std::vector<std::string> more = {}) {
    std::vector<std::string> args = {"synth", "--config", config, "--bits", bits, "--out", out, "--json"};
    args.insert(args.end(), more.begin(), more.end());
    return run_fairway(args);
  }
  TempDir dir_;
};

TEST_F(Synth, MixedTuplesRunEverywhere) {
  const std::string out = path("mixed");
  const ProcessResult made = synth(kModel, "3;6,2,3;1,8,4;2,2,5", out, {"--layers", "2"});
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_EQ(made.json()["layers"], 2);

  const ProcessResult inspected = run_fairway({"inspect", "--model", out, "--json"});
  ASSERT_EQ(inspected.code, 0) << inspected.err;
  const nlohmann::json tuples = inspected.json()["expert_bit_tuples"];
  ASSERT_EQ(tuples.size(), 4u);
  for (const nlohmann::json& tuple : tuples) EXPECT_EQ(tuple["experts"], 8);
  EXPECT_EQ(tuples[0]["gate"], 1);
  EXPECT_EQ(tuples[0]["up"], 8);
  EXPECT_EQ(tuples[0]["down"], 4);

  const ProcessResult ran =
      run_fairway({"run", "--model", out, "--prompt", "Hello", "--max-tokens", "6", "--ignore-eos", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.json()["ids"].size(), 6u);
  const nlohmann::json counters = ran.json()["counters"];
  EXPECT_GT(counters["bit_tuples"].get<int>(), 12);  // more than one tuple per layer pass: 2 layers, 6 passes

  const std::string ids = write_file(dir_.path() / "ids.json", "[0, 5, 900, 8191, 77, 12]");
  const ProcessResult evaluated = run_fairway({"eval", "--model", out, "--ids", ids, "--json"});
  ASSERT_EQ(evaluated.code, 0) << evaluated.err;
  EXPECT_EQ(evaluated.json()["tokens"], 5);
  EXPECT_GT(evaluated.json()["perplexity"].get<double>(), 100);  // random weights know nothing
}

TEST_F(Synth, EveryCodebookLoadsAndRuns) {
  for (const char* codebook : {"mul1", "mcg", "3inst"}) {
    const std::string out = path(codebook);
    ASSERT_EQ(synth(kModel, "4", out, {"--layers", "2", "--codebook", codebook}).code, 0);
    const ProcessResult ran =
        run_fairway({"run", "--model", out, "--prompt", "a", "--max-tokens", "2", "--ignore-eos", "--json"});
    ASSERT_EQ(ran.code, 0) << codebook << ": " << ran.err;
    EXPECT_EQ(ran.json()["ids"].size(), 2u);
  }
}

// The index has to agree with the headers of the weight files, which `inspect` reads.
TEST_F(Synth, IndexOfStoredTensorsAgreesWithTheFiles) {
  const std::map<std::string, std::pair<const char*, std::uint32_t>> flags = {
      {"mul1", {"mul1_multiplier", 0x83DCD12Du}}, {"mcg", {"mcg_multiplier", 0xCBAC1FEDu}}, {"3inst", {"", 0}}};
  for (const auto& [codebook, flag] : flags) {
    const std::string out = path(codebook.c_str());
    ASSERT_EQ(synth(kModel, "6,2,3", out, {"--layers", "2", "--codebook", codebook}).code, 0);
    nlohmann::json config = nlohmann::json::parse(read_file(out + "/quantization_config.json"));
    EXPECT_EQ(config["codebook"], codebook);
    const nlohmann::json storage = config["tensor_storage"];
    config.erase("tensor_storage");
    EXPECT_EQ(config, nlohmann::json::parse(read_file(out + "/config.json"))["quantization_config"]);

    const nlohmann::json inspected = run_fairway({"inspect", "--model", out, "--tensors", "--json"}).json();
    std::size_t stored = 0;
    for (const nlohmann::json& module : storage) stored += module["stored_tensors"].size();
    EXPECT_EQ(stored, inspected["tensor_list"].size());
    for (const nlohmann::json& tensor : inspected["tensor_list"]) {
      const std::string name = tensor["name"];
      const nlohmann::json& module = storage.at(name.substr(0, name.rfind('.')));
      EXPECT_EQ(module["stored_tensors"].at(name)["shape"], tensor["shape"]) << name;
      EXPECT_EQ(module["stored_tensors"].at(name)["n_bytes"], tensor["bytes"]) << name;
      EXPECT_EQ(module.contains("quant_format"), module.contains("bits_per_weight"));
      if (!name.ends_with(".trellis")) continue;
      EXPECT_EQ(module["bits_per_weight"], tensor["shape"][2].get<int>() / 16) << name;
      EXPECT_EQ(module.size(), *flag.first == '\0' ? 3u : 4u);
      if (*flag.first != '\0') {
        EXPECT_EQ(module[flag.first], flag.second);
      }
    }
    const nlohmann::json& up = storage["model.layers.1.mlp.experts.3.up_proj"];
    EXPECT_EQ(up["bits_per_weight"], 2);
    EXPECT_EQ(up["stored_tensors"]["model.layers.1.mlp.experts.3.up_proj.trellis"]["dtype"], "torch.int16");
  }
}

TEST_F(Synth, ConfigAloneGetsAByteTokenizerAndPaddedMatrices) {
  const std::string config = write_file(dir_.path() / "qwen.json", kTinyQwen);
  const std::string out = path("qwen");
  const ProcessResult made = synth(config, "5,3,2", out, {"--layers", "2"});
  ASSERT_EQ(made.code, 0) << made.err;
  const ProcessResult ran =
      run_fairway({"run", "--model", out, "--prompt", "h\xC3\xA9\n", "--max-tokens", "8", "--ignore-eos", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.json()["prompt_tokens"], 4);  // one token per byte
  const nlohmann::json ids = ran.json()["ids"];
  for (const int id : ids) EXPECT_LT(id, 300);  // the head is stored padded to 384
  const nlohmann::json written = nlohmann::json::parse(read_file(out + "/config.json"));
  EXPECT_EQ(written["mlp_only_layers"], nlohmann::json::array({1}));
  EXPECT_EQ(written["quantization_config"]["quant_method"], "exl3");
}

TEST_F(Synth, SameSeedSameBytes) {
  const std::string config = write_file(dir_.path() / "qwen.json", kTinyQwen);
  for (const char* name : {"a", "b"}) ASSERT_EQ(synth(config, "2", path(name), {"--seed", "9"}).code, 0);
  ASSERT_EQ(synth(config, "2", path("c"), {"--seed", "10"}).code, 0);
  const auto weights = [&](const char* name) { return read_file(path(name) + "/model.safetensors"); };
  EXPECT_EQ(weights("a"), weights("b"));
  EXPECT_NE(weights("a"), weights("c"));
}

TEST_F(Synth, RefusesWhatWouldDestroyOrMakesNoSense) {
  const std::string config = write_file(dir_.path() / "qwen.json", kTinyQwen);
  const std::string out = path("out");
  fs::create_directories(out);
  write_file(out + "/notes.txt", "mine");
  const auto run = [&](std::vector<std::string> args) { return run_fairway(args); };
  expect_error(run({"synth", "--config", config, "--bits", "2", "--out", out}), 2, "--force");
  EXPECT_EQ(synth(config, "2", out, {"--force"}).code, 0);
  EXPECT_EQ(read_file(out + "/notes.txt"), "mine");
  EXPECT_EQ(run({"inspect", "--model", out}).code, 0);
  expect_error(run({"synth", "--config", out, "--bits", "2", "--out", out, "--force"}), 2, "--out");
  for (const char* bits : {"9", "0", "3,3", "3,3,3;", "three", "3,3,33", ""}) {
    expect_error(run({"synth", "--config", config, "--bits", bits, "--out", path("never")}), 2, "--bits");
  }
  expect_error(run({"synth", "--config", "/nowhere.json", "--bits", "3", "--out", path("never")}), 2, "/nowhere.json");
  expect_error(run({"synth", "--config", config, "--bits", "3", "--out", path("never"), "--codebook", "x"}), 2,
               "--codebook");
  for (const char* device : {"tpu", "cuda:", "cuda:x", "cuda:-1"}) {
    expect_error(run({"synth", "--config", config, "--bits", "3", "--out", path("never"), "--device", device}), 2,
                 "--device");
  }
  EXPECT_FALSE(fs::exists(path("never")));
}

TEST_F(Synth, BenchmarkConfigsAreAccepted) {
  for (const char* name : {"glm-4.7-flash.json", "qwen3-30b-a3b.json"}) {
    const std::string file = kSource + "/bench/configs/" + name;
    nlohmann::json config = nlohmann::json::parse(read_file(file));
    // The full size is for benchmarks; the same keys at a size that a test can afford.
    for (const char* key : {"hidden_size", "moe_intermediate_size", "intermediate_size"}) config[key] = 128;
    config["vocab_size"] = 512;
    const std::string small = write_file(dir_.path() / name, config.dump());
    const std::string out = path((std::string(name) + ".model").c_str());
    const ProcessResult made = synth(small, "3", out, {"--layers", "2"});
    ASSERT_EQ(made.code, 0) << made.err;
    EXPECT_EQ(made.json()["architecture"], config["architectures"][0]);
    EXPECT_EQ(run_fairway({"inspect", "--model", out}).code, 0);
  }
}

}  // namespace
}  // namespace fairway::test
