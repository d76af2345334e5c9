// fairway compare: figures against those of eval and inspect, mismatching models, Ctrl-C.
#include <gtest/gtest.h>

#include <cmath>

#include "cli/process.h"
#include "common/tiny_checkpoint.h"

namespace fairway::test {
namespace {

class Compare : public ::testing::Test {
 protected:
  Compare() {
    write_tiny_checkpoint(a_.path(), {}, TinyForm::kDequantizedF32);
    write_tiny_checkpoint(b_.path(), {}, TinyForm::kExl3);
    text_ = write_file(files_.path() / "text.txt",
                       std::string(40, 'x') + " every word of this is a byte or two " + std::string(20, 'y'));
  }
  ProcessResult compare(std::vector<std::string> more) {
    std::vector<std::string> args = {"compare", "--json", "--threads", "2"};
    args.insert(args.end(), more.begin(), more.end());
    return run_fairway(args);
  }
  nlohmann::json compare_json(std::vector<std::string> more) {
    const ProcessResult result = compare(std::move(more));
    EXPECT_EQ(result.code, 0) << result.err;
    return result.json();
  }

  TempDir a_, b_, files_;
  std::string text_;
};

TEST_F(Compare, AgreesWithEvalAndInspect) {
  const std::vector<std::string> windows = {"--text",   text_, "--window",      "24",
                                            "--stride", "16",  "--activations", "fp32"};
  std::vector<std::string> args = {a_.path().string(), b_.path().string(), "--layer-windows", "2"};
  args.insert(args.end(), windows.begin(), windows.end());
  const nlohmann::json json = compare_json(args);
  expect_keys(json, {"schema", "revision", "date", "command", "machine", "options", "window", "tokens", "seconds",
                     "peak_memory_bytes", "reference", "candidates"});
  ASSERT_EQ(json["candidates"].size(), 1u);
  const nlohmann::json& candidate = json["candidates"][0];
  const nlohmann::json reference = json["reference"];
  for (const auto& [model, score] : {std::pair(a_.path(), reference), std::pair(b_.path(), candidate)}) {
    std::vector<std::string> eval = {"eval", "--json", "--threads", "2", "--model", model.string()};
    eval.insert(eval.end(), windows.begin(), windows.end());
    const nlohmann::json expected = run_fairway(eval).json();
    EXPECT_EQ(json["tokens"], expected["tokens"]);
    EXPECT_EQ(json["windows"], expected["windows"]);
    EXPECT_NEAR(score["perplexity"].get<double>(), expected["perplexity"].get<double>(),
                1e-6 * expected["perplexity"].get<double>());
    const nlohmann::json inspect = run_fairway({"inspect", "--json", "--model", model.string()}).json();
    EXPECT_EQ(score["size"]["file_bytes"], inspect["memory"]["file_bytes"]);
    EXPECT_EQ(score["size"]["roles"], inspect["roles"]);
    EXPECT_GT(score["tokens_per_second"].get<double>(), 0);
  }
  // Rounding apart, the two directories hold the same weights.
  EXPECT_GE(candidate["divergence"]["mean"].get<double>(), 0);
  EXPECT_LT(candidate["divergence"]["mean"].get<double>(), 1e-6);
  EXPECT_EQ(candidate["divergence"]["by_window"].size(), json["windows"]);
  EXPECT_EQ(candidate["same_top"], 1.0);
  ASSERT_EQ(candidate["layer_error"].size(), 2u);
  EXPECT_LT(candidate["layer_error"][1].get<double>(), 1e-4);
}

TEST_F(Compare, CodedSizesAreThoseOfTheTensors) {
  const nlohmann::json json = compare_json({a_.path().string(), b_.path().string(), "--text", text_});
  EXPECT_TRUE(json["reference"]["size"]["coded"].is_null());
  std::int64_t codes = 0, sides = 0, padded = 0;
  const nlohmann::json inspect = run_fairway({"inspect", "--tensors", "--json", "--model", b_.path().string()}).json();
  for (const nlohmann::json& tensor : inspect["tensor_list"]) {
    const std::string name = tensor["name"];
    const auto bytes = tensor["bytes"].get<std::int64_t>();
    if (name.ends_with(".trellis")) {
      codes += bytes;
      padded += 256 * tensor["shape"][0].get<std::int64_t>() * tensor["shape"][1].get<std::int64_t>();
    }
    if (name.ends_with(".suh") || name.ends_with(".svh") || name.ends_with(".mul1")) sides += bytes;
  }
  const nlohmann::json coded = json["candidates"][0]["size"]["coded"];
  EXPECT_EQ(coded["code_bytes"], codes);
  EXPECT_EQ(coded["side_bytes"], sides);
  EXPECT_EQ(coded["padded_weights"], padded);
  EXPECT_LT(coded["weights"].get<std::int64_t>(), padded);
  const double weights = coded["weights"].get<double>();
  EXPECT_DOUBLE_EQ(coded["bits_per_weight"].get<double>(), 8 * static_cast<double>(codes) / weights);
  EXPECT_DOUBLE_EQ(coded["bits_per_weight_with_sides"].get<double>(), 8 * static_cast<double>(codes + sides) / weights);
  const nlohmann::json body = json["candidates"][0]["size"]["coded_without_head"];
  EXPECT_EQ(coded["matrices"].get<int>() - 1, body["matrices"].get<int>());
  EXPECT_EQ(coded["weights"].get<int>() - 320 * 256, body["weights"].get<int>());
}

TEST_F(Compare, SeveralModelsAndATable) {
  TempDir c;
  TinySpec other;
  other.seed = 2;
  other.layers = 3;
  write_tiny_checkpoint(c.path(), other, TinyForm::kExl3);
  const std::string out = (files_.path() / "result.json").string();
  const ProcessResult result = run_fairway({"compare", b_.path().string(), b_.path().string() + "/", c.path().string(),
                                            "--text", text_, "--window", "24", "-o", out});
  ASSERT_EQ(result.code, 0) << result.err;
  for (const TempDir* dir : {&b_, &c}) EXPECT_TRUE(contains(result.out, dir->path().filename().string())) << result.out;
  EXPECT_TRUE(contains(result.out, "0.00000")) << result.out;
  const nlohmann::json json = nlohmann::json::parse(read_file(out));
  ASSERT_EQ(json["candidates"].size(), 2u);
  EXPECT_EQ(json["candidates"][0]["divergence"]["max"], 0.0);
  EXPECT_GT(json["candidates"][1]["divergence"]["mean"].get<double>(), 0.1);
  EXPECT_GE(json["candidates"][1]["divergence"]["max"], json["candidates"][1]["divergence"]["p99"]);
  EXPECT_TRUE(json["candidates"][1]["layer_error"].is_null());  // three layers instead of two
}

TEST_F(Compare, VocabulariesMustAgree) {
  expect_error(compare({kModel, a_.path().string(), "--text", text_}), 2, kModel);
  expect_error(compare({kModel, a_.path().string(), "--text", text_}), 2, a_.path().string());
}

// The tokenizer of b_ gives "a" and "b" each other's ids.
TEST_F(Compare, TokenizersMustAgreeOnTheText) {
  const auto path = b_.path() / "tokenizer.json";
  nlohmann::json tokenizer = nlohmann::json::parse(read_file(path));
  std::swap(tokenizer["model"]["vocab"]["a"], tokenizer["model"]["vocab"]["b"]);
  write_file(path, tokenizer.dump());
  const std::string b = b_.path().string();
  expect_error(compare({a_.path().string(), b, "--text", write_file(files_.path() / "ab.txt", "xxa")}), 2, "token 3");

  const ProcessResult same = compare({a_.path().string(), b, "--text", write_file(files_.path() / "xy.txt", "xyxy")});
  EXPECT_EQ(same.code, 0) << same.err;
  EXPECT_TRUE(contains(same.err, "note")) << same.err;
  const ProcessResult ids = compare({a_.path().string(), b, "--ids", write_file(files_.path() / "ids.json", "[1,2]")});
  EXPECT_EQ(ids.code, 0) << ids.err;
  EXPECT_TRUE(contains(ids.err, "note")) << ids.err;
}

TEST_F(Compare, BadUsageIsNamed) {
  expect_error(compare({kModel, "--text", text_}), 2, "at least two models");
  expect_error(compare({kModel, kModel}), 2, "--ids");
  expect_error(compare({kModel, kModel, "--text", text_, "--ids", text_}), 2, "--text");
  expect_error(compare({kModel, "/nowhere/model", "--text", text_}), 2, "/nowhere/model");
}

TEST_F(Compare, CtrlCReportsTheWindowsSoFar) {
  std::string many = "[";
  for (int i = 0; i < 20000; ++i) many += std::to_string(i % 40) + (i + 1 < 20000 ? "," : "]");
  const std::string path = write_file(files_.path() / "many.json", many);
  const ProcessResult result =
      interrupt_at_work({"compare", kModel, kModel, "--ids", path, "--window", "8", "--backend", "cpu_ref", "--json"});
  ASSERT_EQ(result.code, 130) << result.err;
  EXPECT_EQ(result.json()["stop"], "cancelled") << result.out;
  EXPECT_LT(result.json()["windows"].get<int>(), 2499);
}

}  // namespace
}  // namespace fairway::test
