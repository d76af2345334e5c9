// fairway bench: result files with the documented keys, at sizes that take no time.
#include <gtest/gtest.h>

#include "cli/process.h"
#include "common/tiny_checkpoint.h"

namespace fairway::test {
namespace {

const std::vector<std::string> kQuick = {"--warmup", "0", "--runs", "2", "--ceiling-mib", "16"};

ProcessResult bench(const std::string& kind, const std::string& model, std::vector<std::string> more) {
  std::vector<std::string> args = {"bench", kind, "--model-path", model};
  args.insert(args.end(), kQuick.begin(), kQuick.end());
  args.insert(args.end(), more.begin(), more.end());
  return run_fairway(args);
}

void expect_document(const nlohmann::json& json, const std::string& kind) {
  expect_keys(json, {"schema", "kind", "version", "revision", "date", "command", "machine", "model", "options", "stop",
                     "results"});
  EXPECT_EQ(json["schema"], "fairway-bench-1");
  EXPECT_EQ(json["kind"], kind);
  EXPECT_EQ(json["command"].get<std::string>().rfind("fairway bench " + kind, 0), 0u) << json["command"];
  EXPECT_EQ(json["date"].get<std::string>().size(), 20u);
}

void expect_spread(const nlohmann::json& spread, std::size_t runs) {
  ASSERT_EQ(spread["samples"].size(), runs);
  EXPECT_GT(spread["min"].get<double>(), 0);
  EXPECT_LE(spread["min"].get<double>(), spread["median"].get<double>());
  EXPECT_LE(spread["median"].get<double>(), spread["max"].get<double>());
}

TEST(Bench, DecodeWritesItsResultFile) {
  const TempDir dir;
  const std::string file = (dir.path() / "decode.json").string();
  const ProcessResult result =
      bench("decode", kModel, {"--prompt-len", "4", "--decode-tokens", "3", "--threads", "1,2", "--output", file});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "tokens/s")) << result.out;
  const nlohmann::json json = nlohmann::json::parse(read_file(file));
  expect_document(json, "decode");
  ASSERT_EQ(json["results"].size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    const nlohmann::json& cell = json["results"][i];
    EXPECT_EQ(cell["threads"], i + 1);
    expect_spread(cell["tokens_per_second"], 2);
    expect_spread(cell["ms_per_token"], 2);
    expect_spread(cell["ceiling_gb_per_second"], 2);
    EXPECT_GT(cell["weight_gb_per_second"].get<double>(), 0);
    EXPECT_GT(cell["share_of_ceiling"].get<double>(), 0);
    expect_spread(cell["ceiling_gmac_per_second"], 2);
    expect_spread(cell["core_ghz"], 2);
    EXPECT_FALSE(cell["int8_instruction"].get<std::string>().empty());
    EXPECT_GE(cell["counters"]["grouped_calls"].get<int>(), 8 * 4);
  }
}

TEST(Bench, ProfilePartsAddUpToTheToken) {
  const ProcessResult result =
      bench("decode", kModel, {"--prompt-len", "4", "--decode-tokens", "8", "--threads", "1,2", "--profile", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const nlohmann::json json = result.json();
  ASSERT_EQ(json["results"].size(), 2u);
  for (const nlohmann::json& cell : json["results"]) {
    const nlohmann::json& profile = cell["profile_per_token"];
    double sum = 0;
    for (const char* part : {"attention_projections_ms", "attention_ms", "experts_ms", "head_ms", "other_ms"}) {
      ASSERT_TRUE(profile.contains(part)) << part;
      EXPECT_GT(profile[part].get<double>(), 0) << part;
      sum += profile[part].get<double>();
    }
    // Medians of parts are not parts of the median, but two runs of one kind of token are close to each other.
    EXPECT_GT(sum, cell["ms_per_token"]["min"].get<double>() / 2);
    EXPECT_LT(sum, cell["ms_per_token"]["max"].get<double>() * 2);
  }
}

TEST(Bench, ProfileIsAskedFor) {
  const ProcessResult result = bench("decode", kModel, {"--prompt-len", "4", "--decode-tokens", "2", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_FALSE(result.json()["results"][0].contains("profile_per_token"));
  EXPECT_EQ(bench("prefill", kModel, {"--profile"}).code, 2);
}

TEST(Bench, Prefill) {
  const ProcessResult result = bench("prefill", kModel, {"--prompt-len", "40", "--threads", "2", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const nlohmann::json json = result.json();
  expect_document(json, "prefill");
  EXPECT_EQ(json["results"][0]["tokens"], 40);
  expect_spread(json["results"][0]["tokens_per_second"], 2);
}

TEST(Bench, MoeCountsWhatItTouches) {
  for (const char* routing : {"uniform", "router"}) {
    const ProcessResult result = bench(
        "moe", kModel, {"--batch", "1,8", "--threads", "1,2", "--cell-seconds", "0", "--routing", routing, "--json"});
    ASSERT_EQ(result.code, 0) << result.err;
    const nlohmann::json json = result.json();
    expect_document(json, "moe");
    ASSERT_EQ(json["results"].size(), 4u);
    const nlohmann::json& one = json["results"][0];
    EXPECT_EQ(one["batch"], 1);
    EXPECT_EQ(one["experts_touched"], 5.0);  // 4 routed and the shared one
    EXPECT_EQ(one["evaluations"], 2 * 5);
    EXPECT_EQ(one["counters"]["expert_groups"], 2 * 5 * 5);
    expect_spread(one["ms_per_layer"], 2);
    EXPECT_GT(one["g_weights_per_second"].get<double>(), 0);
    EXPECT_NEAR(one["share_of_int8_ceiling"].get<double>(),
                one["gmac_per_second"].get<double>() / one["ceiling_gmac_per_second"]["median"].get<double>(), 1e-9);
    EXPECT_LT(one["core_ghz"]["max"].get<double>(), 10);
    const double touched = json["results"][1]["experts_touched"];
    EXPECT_GT(touched, 5.0);
    EXPECT_LE(touched, 33.0);
  }
}

TEST(Bench, ForcedKernelIsTheOneThatRuns) {
  const ProcessResult result =
      bench("moe", kModel, {"--batch", "2", "--threads", "1", "--cell-seconds", "0", "--backend", "cpu_ref", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const nlohmann::json kernels = result.json()["results"][0]["kernels"];
  EXPECT_FALSE(kernels.empty());
  for (const auto& [id, calls] : kernels.items()) EXPECT_TRUE(id.starts_with("cpu_ref/")) << id;
}

TEST(Bench, RefusesWhatItCannotMeasure) {
  expect_error(bench("decode", kModel, {"--batch", "4"}), 2, "--batch");
  expect_error(bench("decode", kModel, {"--prompt-len", "2040", "--decode-tokens", "20"}), 2, "--prompt-len");
  expect_error(bench("prefill", kModel, {"--prompt-len", "5000"}), 2, "--prompt-len");
  expect_error(bench("decode", kModel, {"--threads", "0"}), 2, "--threads");
  expect_error(bench("moe", kModel, {"--kernel", "warp_drive"}), 2, "warp_drive");
  expect_error(bench("moe", "/nowhere/model", {}), 2, "/nowhere/model");
}

TEST(Bench, CtrlCEndsIt) {
  const ProcessResult result = run_fairway(
      {"bench", "moe", "--model-path", kModel, "--runs", "100000", "--ceiling-mib", "16"}, "", {.after_ms = 800});
  expect_error(result, 130, "interrupted");
}

TEST(Bench, CtrlCKeepsTheCompleteRounds) {
  const ProcessResult result =
      interrupt_at_work({"bench", "moe", "--model-path", kModel, "--warmup", "0", "--runs", "1000000", "--batch", "1",
                         "--cell-seconds", "0", "--ceiling-mib", "16", "--json"});
  ASSERT_EQ(result.code, 130) << result.err;
  EXPECT_EQ(result.json()["stop"], "cancelled");
  EXPECT_GT(result.json()["results"][0]["ms_per_layer"]["samples"].size(), 0u);
}

}  // namespace
}  // namespace fairway::test
