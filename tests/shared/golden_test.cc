// The demo model against golden values of Hugging Face transformers (bf16 weights) and of the reference EXL3
// implementation. Needs the large reference models.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "common/compare.h"
#include "common/policies.h"
#include "engine/engine.h"

namespace fairway {
namespace {

using engine::Engine;
using engine::EngineOptions;
using nlohmann::json;

const std::filesystem::path kModels = std::filesystem::path(FAIRWAY_SHARED_DIR) / "models";

json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.is_open()) << path;
  return json::parse(file);
}

Engine load(const char* model, const std::string& backend, const std::string& activations) {
  EngineOptions options;
  options.threads = 2;
  options.policy = select::make_policy(backend, activations, "");
  return Engine::load(kModels / model, options);
}

double mean_abs_difference(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += std::abs(static_cast<double>(a[i]) - b[i]);
  return sum / static_cast<double>(a.size());
}

TEST(GoldenBf16, PromptsGiveTheSameGreedyTokensAndLogits) {
  Engine engine = load("books-moe-47m", "", "fp32");
  for (const json& golden : read_json(kModels / "books-moe-47m" / "golden.json")) {
    const auto prompt = golden.at("prompt").get<std::string>();
    SCOPED_TRACE(prompt);
    const auto ids = golden.at("ids").get<std::vector<int>>();
    EXPECT_EQ(engine.encode_prompt(prompt), ids);
    const auto logits = golden.at("last_logits").get<std::vector<float>>();
    EXPECT_EQ(
        test::compare(logits, engine.last_logits(ids), static_cast<std::int64_t>(logits.size()), {.absolute = 2e-3}),
        "");
    engine::GenerateOptions options;
    options.max_tokens = 32;
    options.stop_at_eos = false;
    std::vector<int> all = ids;
    const auto result = engine.generate(ids, options);
    all.insert(all.end(), result.ids.begin(), result.ids.end());
    EXPECT_EQ(all, golden.at("greedy").get<std::vector<int>>());
    EXPECT_EQ(prompt + result.text, golden.at("greedy_text").get<std::string>());

    const auto logprobs = engine.logprobs(ids);
    double sum = 0;
    for (const float value : logprobs) sum += value;
    EXPECT_NEAR(sum / static_cast<double>(logprobs.size()), golden.at("mean_logprob").get<double>(), 1e-3);
  }
}

TEST(GoldenBf16, WindowLogprobs) {
  Engine engine = load("books-moe-47m", "", "fp32");
  const json golden = read_json(kModels / "books-moe-47m" / "golden_window.json");
  const auto ids = golden.at("ids").get<std::vector<int>>();
  const auto expected = golden.at("logprobs").get<std::vector<float>>();
  const auto actual = engine.logprobs(ids);
  ASSERT_EQ(actual.size(), expected.size());
  // The file has four decimals; the rest is fp32 in another order, where a tie between two experts may fall the other
  // way.
  EXPECT_LT(mean_abs_difference(expected, actual), 1e-3);
}

// Mean absolute difference over the first `positions` of the reference window.
double exl3_difference(const std::string& backend, const std::string& activations, std::size_t positions) {
  Engine engine = load("books-moe-47m-exl3-3.00", backend, activations);
  auto ids = read_json(kModels / "books-moe-47m" / "golden_window.json").at("ids").get<std::vector<int>>();
  auto expected = read_json(kModels / "books-moe-47m-exl3-3.00" / "reference_eval.json")
                      .at("window_logprobs")
                      .get<std::vector<float>>();
  expected.resize(positions);
  ids.resize(positions + 1);
  const auto actual = engine.logprobs(ids);
  EXPECT_EQ(actual.size(), expected.size());
  const double difference = mean_abs_difference(expected, actual);
  std::printf("%s, %s activations, %zu positions: mean absolute difference %.5f\n", backend.c_str(),
              activations.c_str(), positions, difference);
  return difference;
}

TEST(GoldenExl3, WindowLogprobsWithFp32Activations) {
  for (const std::string& backend : test::backends_here()) {
    // The scalar reference takes minutes for the whole window; a prefix shows the same.
    EXPECT_LT(exl3_difference(backend, "fp32", backend == "cpu_ref" ? 128 : 1024), 0.02) << backend;
  }
}

TEST(GoldenExl3, WindowLogprobsWithInt8Activations) {
  for (const std::string& backend : test::backends_here()) {
    if (backend == "cpu_ref") continue;  // it has no int8 rows
    EXPECT_LT(exl3_difference(backend, "int8", 1024), 0.05) << backend;
  }
}

}  // namespace
}  // namespace fairway
