// fairway run on the bundled model: text, JSON, sampling, forced kernels, interruption.
#include <gtest/gtest.h>

#include "cli/process.h"

namespace fairway::test {
namespace {

const std::string kPrompt = "It was a dark and";

std::vector<std::string> run_args(std::vector<std::string> more) {
  std::vector<std::string> args = {"run",          "--model", kModel,      "--prompt", kPrompt,
                                   "--max-tokens", "12",      "--threads", "2"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

nlohmann::json run_json(std::vector<std::string> more) {
  more.push_back("--json");
  const ProcessResult result = run_fairway(run_args(std::move(more)));
  EXPECT_EQ(result.code, 0) << result.err;
  return result.json();
}

nlohmann::json kernel_rows() {
  const nlohmann::json rows = run_fairway({"kernels", "--json"}).json()["rows"];
  EXPECT_FALSE(rows.empty());
  return rows;
}

TEST(Run, JsonContract) {
  const nlohmann::json json = run_json({});
  expect_keys(json, {"ids", "prompt_ids", "text", "prompt_tokens", "tokens_per_second", "prefill_seconds",
                     "decode_seconds", "load_seconds", "stop", "threads", "peak_memory_bytes", "program_memory_bytes",
                     "kernels", "counters", "model"});
  expect_keys(json["counters"], {"grouped_calls", "expert_groups", "bit_tuples", "fallback_calls", "fallbacks"});
  EXPECT_EQ(json["ids"].size(), 12u);
  EXPECT_EQ(json["stop"], "length");
  EXPECT_EQ(json["threads"], 2);
  EXPECT_GT(json["program_memory_bytes"], 0);
  EXPECT_LT(json["program_memory_bytes"], json["peak_memory_bytes"]);
  EXPECT_EQ(json["prompt_tokens"], json["prompt_ids"].size());
  EXPECT_GT(json["prompt_ids"].size(), 1u);
  EXPECT_EQ(json["prompt_ids"][0], 0);  // the token that begins every text
  EXPECT_GT(json["tokens_per_second"].get<double>(), 0);
  // 7 layers with experts and one dense layer, in each of 12 passes; a layer may need several rows.
  EXPECT_GE(json["counters"]["grouped_calls"].get<int>(), 8 * 12);
  EXPECT_FALSE(json["kernels"].empty());
}

TEST(Run, LikeliestTokens) {
  EXPECT_FALSE(run_json({}).contains("top_logprobs"));
  const nlohmann::json json = run_json({"--top-logprobs", "2"});
  EXPECT_EQ(json["ids"], run_json({})["ids"]);
  ASSERT_EQ(json["top_logprobs"].size(), 12u);
  for (std::size_t i = 0; i < 12; ++i) {
    const nlohmann::json& top = json["top_logprobs"][i];
    ASSERT_EQ(top.size(), 2u);
    EXPECT_EQ(top[0][0], json["ids"][i]);
    EXPECT_LE(top[0][1].get<double>(), 0);
    EXPECT_GE(top[0][1].get<double>(), top[1][1].get<double>());
  }
  expect_error(run_fairway(run_args({"--top-logprobs", "2"})), 2, "--json");
}

TEST(Run, RoutingMargins) {
  const nlohmann::json json = run_json({"--activations", "fp32", "--routing-margins"});
  ASSERT_EQ(json["routing_margins"].size(), 12u);
  for (const nlohmann::json& margin : json["routing_margins"]) {
    EXPECT_GT(margin.get<double>(), 0);
    EXPECT_LT(margin.get<double>(), 1);
  }
  expect_error(run_fairway(run_args({"--routing-margins"})), 2, "--json");
}

TEST(Run, StreamsThePromptAndTheSameText) {
  const std::string text = run_json({})["text"];
  EXPECT_FALSE(text.empty());
  const ProcessResult echoed = run_fairway(run_args({}));
  EXPECT_EQ(echoed.code, 0);
  EXPECT_EQ(echoed.out, kPrompt + text + "\n");
  EXPECT_TRUE(contains(echoed.err, "12 tokens")) << echoed.err;
  EXPECT_TRUE(contains(echoed.err, "tokens/s")) << echoed.err;
  EXPECT_EQ(run_fairway(run_args({"--no-prompt-echo"})).out, text + "\n");
}

TEST(Run, PromptFromStandardInput) {
  const std::vector<std::string> args = {"run", "--model", kModel, "--prompt", "-", "--max-tokens", "12", "--json"};
  const ProcessResult piped = run_fairway(args, kPrompt);
  ASSERT_EQ(piped.code, 0) << piped.err;
  EXPECT_EQ(piped.json()["ids"], run_json({})["ids"]);
  expect_error(run_fairway({"run", "--model", kModel, "--prompt", "-"}, "a\xFFz"), 2, "--prompt");
}

TEST(Run, PromptMayLookLikeAFlag) {
  const ProcessResult result = run_fairway({"run", "--model", kModel, "--prompt", "--json", "--max-tokens", "1"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(result.out.starts_with("--json")) << result.out;
}

TEST(Run, SeedsDecideSampledText) {
  const auto ids = [](const char* seed) {
    return run_json({"--temperature", "1.2", "--top-k", "200", "--top-p", "0.98", "--min-p", "0.001",
                     "--repetition-penalty", "1.1", "--seed", seed})["ids"];
  };
  EXPECT_EQ(ids("7"), ids("7"));
  EXPECT_NE(ids("7"), ids("8"));
}

TEST(Run, UnusedFiltersAreNoted) {
  const ProcessResult result = run_fairway(run_args({"--top-k", "5"}));
  EXPECT_EQ(result.code, 0);
  EXPECT_TRUE(contains(result.err, "--temperature 0")) << result.err;
}

TEST(Run, ThreadsDoNotChangeTheText) {
  EXPECT_EQ(run_json({"--threads", "1"})["ids"], run_json({"--threads", "3"})["ids"]);
}

TEST(Run, BackendsAreObeyed) {
  for (const nlohmann::json& row : kernel_rows()) {
    if (row["op"] != "moe_swiglu" || row["weights"] != "trellis") continue;
    const std::string id = row["id"];
    const ProcessResult result = run_fairway(run_args({"--kernel", id, "--max-tokens", "2", "--json"}));
    const nlohmann::json& codebooks = row["codebooks"];
    const bool serves =
        std::find(codebooks.begin(), codebooks.end(), "mul1") != codebooks.end() && row["bits"] == "any";
    if (row["can_run"].get<bool>() && serves) {
      ASSERT_EQ(result.code, 0) << id << ": " << result.err;
      EXPECT_TRUE(result.json()["kernels"].contains(id)) << id << ": " << result.out;
    } else {
      expect_error(result, 2, id);
    }
  }
}

TEST(Run, KernelsThatCannotServeAreRefused) {
  expect_error(run_fairway(run_args({"--kernel", "warp_drive"})), 2, "warp_drive");
  expect_error(run_fairway(run_args({"--backend", "abacus"})), 2, "abacus");
  expect_error(run_fairway(run_args({"--activations", "int3"})), 2, "int3");
  for (const nlohmann::json& row : kernel_rows()) {
    if (row["op"] != "moe_swiglu" || row["weights"] != "dense" || !row["can_run"]) continue;
    EXPECT_EQ(run_fairway(run_args({"--kernel", row["id"]})).code, 2)
        << row["id"];  // the model's experts are trellis-coded
  }
}

TEST(Run, CtrlCKeepsTheTextSoFar) {
  const ProcessResult result = run_fairway(
      {"run", "--model", kModel, "--prompt", kPrompt, "--max-tokens", "100000", "--ignore-eos", "--backend", "cpu_ref"},
      "", {.after_bytes = static_cast<int>(kPrompt.size()) + 8});
  EXPECT_EQ(result.code, 130) << result.err;
  EXPECT_TRUE(result.out.starts_with(kPrompt));
  EXPECT_GT(result.out.size(), kPrompt.size() + 1);
  EXPECT_TRUE(contains(result.err, "cancelled")) << result.err;
}

TEST(Run, CtrlCStillPrintsJson) {
  const ProcessResult result = interrupt_at_work({"run", "--model", kModel, "--prompt", kPrompt, "--max-tokens",
                                                  "100000", "--ignore-eos", "--backend", "cpu_ref", "--json"});
  ASSERT_EQ(result.code, 130) << result.err;
  EXPECT_EQ(result.json()["stop"], "cancelled") << result.out;
  EXPECT_FALSE(result.json()["ids"].empty());
}

}  // namespace
}  // namespace fairway::test
