// fairway verify: rows, coverage and refusals as users see them.
#include <gtest/gtest.h>

#include "cli/process.h"

namespace fairway::test {
namespace {

TEST(Verify, EveryRowThatRunsHereAgreesWithTheReference) {
  const nlohmann::json listing = run_fairway({"kernels", "--json"}).json();
  std::size_t expected = 0;
  for (const nlohmann::json& row : listing["rows"]) {
    const bool checked = row["op"] == "moe_swiglu" || row["op"] == "trellis_linear";
    expected += checked && row["can_run"].get<bool>();
  }
  const ProcessResult result = run_fairway({"verify", "--rounds", "1", "--seed", "5", "--json"});
  ASSERT_EQ(result.code, 0) << result.out << result.err;
  EXPECT_EQ(result.err, "");
  const nlohmann::json json = result.json();
  expect_keys(json, {"seed", "rounds", "passed", "failed", "stop", "rows", "not_run"});
  EXPECT_EQ(json["stop"], "complete");
  EXPECT_EQ(json["failed"], 0);
  EXPECT_EQ(json["rows"].size(), expected);
  for (const nlohmann::json& row : json["rows"]) {
    expect_keys(row, {"id", "op", "ok", "calls", "bits", "codebooks", "most_tokens", "tiles", "worst_error", "bound",
                      "mismatch"});
    EXPECT_TRUE(row["ok"].get<bool>()) << row;
    const bool dense = contains(row["id"], "dense");
    EXPECT_EQ(row["bits"].size(), dense ? 0u : 8u) << row;
    EXPECT_EQ(row["codebooks"].empty(), dense) << row;
    EXPECT_LE(row["worst_error"].get<double>(), row["bound"].get<double>()) << row;
  }
}

TEST(Kernels, CudaRowsHaveAListOfTheirOwn) {
  const nlohmann::json listing = run_fairway({"kernels", "--json"}).json();
  ASSERT_FALSE(listing["cuda_rows"].empty());
  for (const nlohmann::json& row : listing["cuda_rows"]) {
    expect_keys(row, {"id", "op", "family", "backend", "path", "weights", "activations", "numerics", "codebooks",
                      "tile_rows", "source", "can_run", "lacking"});
    EXPECT_EQ(row["can_run"].get<bool>(), row["lacking"].get<std::string>().empty()) << row;
    EXPECT_FALSE(row["can_run"].get<bool>() && listing["machine"]["cuda"]["devices"].empty()) << row;
  }
  for (const nlohmann::json& row : listing["rows"]) EXPECT_FALSE(contains(row["id"], "cuda")) << row;
  const ProcessResult text = run_fairway({"kernels"});
  EXPECT_TRUE(contains(text.out, "cuda_sm90/moe_trellis_swiglu_large_batch/wg_128")) << text.out;
}

TEST(Verify, OneFamilyAsText) {
  const ProcessResult result =
      run_fairway({"verify", "--kernel", "moe_trellis_swiglu_grouped_fp32acc", "--rounds", "1"});
  ASSERT_EQ(result.code, 0) << result.out << result.err;
  EXPECT_TRUE(contains(result.out, "moe_trellis_swiglu_grouped_fp32acc")) << result.out;
  EXPECT_TRUE(contains(result.out, "0 do not")) << result.out;
  EXPECT_FALSE(contains(result.out, "prefill4")) << result.out;
}

TEST(Verify, AliasesAreTaken) {
  const nlohmann::json aliases = run_fairway({"kernels", "--json"}).json()["aliases"];
  ASSERT_FALSE(aliases.empty());
  const std::string name = aliases[0]["name"], family = aliases[0]["family"];
  const ProcessResult result = run_fairway({"verify", "--kernel", name, "--rounds", "1", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const nlohmann::json json = result.json();
  for (const nlohmann::json& row : json["rows"]) EXPECT_TRUE(contains(row["id"], family)) << row["id"];
}

TEST(Verify, RefusesWhatDoesNotExist) {
  expect_error(run_fairway({"verify", "--kernel", "warp_drive"}), 2, "warp_drive");
  expect_error(run_fairway({"verify", "--rounds", "0"}), 2, "--rounds");
}

TEST(Verify, ACudaDeviceIsNeededForItsRows) {
  expect_error(run_fairway({"verify", "--device", "cuda:99", "--rounds", "1"}), 2, "CUDA");
  expect_error(run_fairway({"verify", "--device", "cuda:x"}), 2, "cuda:N");
}

TEST(Verify, CtrlCEndsIt) {
  const ProcessResult result = run_fairway({"verify", "--rounds", "10000", "--json"}, "", {.after_ms = 700});
  EXPECT_EQ(result.code, 130) << result.err;
  EXPECT_EQ(result.json()["stop"], "cancelled");
  EXPECT_TRUE(contains(result.err, "interrupted")) << result.err;
}

}  // namespace
}  // namespace fairway::test
