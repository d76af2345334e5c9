// fairway inspect on the bundled model and on damaged copies of it.
#include <gtest/gtest.h>

#include "cli/process.h"
#include "common/tiny_checkpoint.h"

namespace fairway::test {
namespace {

namespace fs = std::filesystem;

TEST(Inspect, BundledModel) {
  const ProcessResult result = run_fairway({"inspect", "--model", kModel, "--json", "--tensors"});
  ASSERT_EQ(result.code, 0) << result.err;
  const nlohmann::json json = result.json();
  EXPECT_EQ(json["architecture"], "DeepseekV3ForCausalLM");
  EXPECT_EQ(json["layers"], 8);
  EXPECT_EQ(json["moe_layers"], 7);
  EXPECT_GE(json["expert_bit_tuples"].size(), 3u);
  int experts = 0, widths = 0;
  for (const nlohmann::json& tuple : json["expert_bit_tuples"]) {
    const int count = tuple["experts"];
    experts += count;
    widths += count * (tuple["gate"].get<int>() + tuple["up"].get<int>() + tuple["down"].get<int>());
  }
  EXPECT_EQ(experts, 7 * 32);
  // The mean width, two fp16 scale vectors and a 4-byte flag per 384 x 128 matrix.
  const double expert_bits = widths / (3.0 * experts) + 16.0 / 384 + 16.0 / 128 + 32.0 / (384 * 128);
  EXPECT_NEAR(json["roles"]["expert"]["bits_per_weight"].get<double>(), expert_bits, 1e-9);
  EXPECT_EQ(json["roles"]["expert"]["weights"], 7 * 32 * 3 * 384 * 128);
  EXPECT_EQ(json["roles"]["embedding"]["bits_per_weight"], 16.0);
  EXPECT_EQ(json["roles"]["head"]["weights"], 384 * 8192);

  std::int64_t listed = 0, by_role = json["unused_tensor_bytes"];
  for (const nlohmann::json& tensor : json["tensor_list"]) listed += tensor["bytes"].get<std::int64_t>();
  for (const nlohmann::json& role : json["roles"]) by_role += role["bytes"].get<std::int64_t>();
  EXPECT_EQ(listed, by_role);
  EXPECT_EQ(json["tensors"], json["tensor_list"].size());
  EXPECT_EQ(json["memory"]["file_bytes"], fs::file_size(kModel + "/model.safetensors"));
  EXPECT_EQ(json["memory"]["kv_cache_bytes_per_1000_tokens"], 1000 * 8 * (128 + 32) * 4);  // latent + rope, fp32
}

TEST(Inspect, HumanFormShowsTheSame) {
  const ProcessResult result = run_fairway({"inspect", "--model", kModel});
  ASSERT_EQ(result.code, 0) << result.err;
  for (const char* part : {"DeepseekV3ForCausalLM", "2,2,2", "2,2,3", "experts", "bits/weight", "per 1000 tokens"}) {
    EXPECT_TRUE(contains(result.out, part)) << part << " in\n" << result.out;
  }
}

class DamagedModel : public ::testing::Test {
 protected:
  DamagedModel() { fs::copy(kModel, dir_.path(), fs::copy_options::recursive | fs::copy_options::overwrite_existing); }
  ProcessResult inspect() { return run_fairway({"inspect", "--model", dir_.path().string(), "--json"}); }
  // Exit code 2, and a problem that holds `part`.
  void expect_problem(const std::string& part) {
    const ProcessResult result = inspect();
    EXPECT_EQ(result.code, 2);
    bool found = false;
    const nlohmann::json problems = result.json()["problems"];
    for (const std::string problem : problems) found |= contains(problem, part);
    EXPECT_TRUE(found) << part << " in " << result.out;
    EXPECT_TRUE(contains(result.err, part)) << result.err;
  }
  TempDir dir_;
};

TEST_F(DamagedModel, TruncatedWeights) {
  fs::resize_file(dir_.path() / "model.safetensors", 20'000'000);
  expect_problem("model.safetensors");
}

TEST_F(DamagedModel, SeveralProblemsAreListedTogether) {
  fs::remove(dir_.path() / "tokenizer.json");
  write_file(dir_.path() / "config.json", "{\"architectures\": [\"BertModel\"]}");
  expect_problem("tokenizer.json");
  expect_problem("BertModel");
}

TEST_F(DamagedModel, OtherArchitectureIsRefusedByNameInRun) {
  write_file(dir_.path() / "config.json", "{\"architectures\": [\"BertModel\"]}");
  expect_error(run_fairway({"run", "--model", dir_.path().string(), "--prompt", "x"}), 2, "BertModel");
}

TEST(Inspect, MissingDirectory) {
  const ProcessResult result = run_fairway({"inspect", "--model", "/nowhere/model", "--json"});
  EXPECT_EQ(result.code, 2);
  EXPECT_FALSE(result.json()["problems"].empty());
  EXPECT_TRUE(contains(result.err, "/nowhere/model")) << result.err;
}

}  // namespace
}  // namespace fairway::test
