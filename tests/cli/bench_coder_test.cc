// fairway bench coder: its document, the same error whatever the threads and instruction set, refusals.
#include <gtest/gtest.h>

#include "cli/process.h"
#include "common/tiny_checkpoint.h"

namespace fairway::test {
namespace {

ProcessResult bench_coder(std::vector<std::string> more) {
  std::vector<std::string> args = {"bench", "coder", "--tiles", "3", "--runs", "2"};
  args.insert(args.end(), more.begin(), more.end());
  return run_fairway(args);
}

TEST(BenchCoder, WritesItsResultFile) {
  const TempDir dir;
  const std::string file = (dir.path() / "coder.json").string();
  const ProcessResult result = bench_coder({"--bits", "3,6", "--threads", "2", "--output", file});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "core ms/tile")) << result.out;
  const nlohmann::json json = nlohmann::json::parse(read_file(file));
  expect_keys(json,
              {"schema", "kind", "version", "revision", "date", "command", "machine", "options", "stop", "results"});
  EXPECT_EQ(json["schema"], "fairway-bench-1");
  EXPECT_EQ(json["kind"], "coder");
  ASSERT_EQ(json["results"].size(), 2u);
  const double expected[] = {0.01725, 0.000284};
  for (std::size_t i = 0; i < 2; ++i) {
    const nlohmann::json& cell = json["results"][i];
    expect_keys(cell, {"bits", "isa", "sigma", "mse", "steps_per_weight", "core_ms_per_tile", "weights_per_core_second",
                       "g_states_per_core_second", "core_ghz", "share_of_peak"});
    EXPECT_EQ(cell["bits"], i == 0 ? 3 : 6);
    EXPECT_NEAR(cell["mse"].get<double>() / expected[i], 1, 0.3);  // three tiles
    EXPECT_GE(cell["steps_per_weight"].get<double>(), 1);
    for (const char* key :
         {"core_ms_per_tile", "weights_per_core_second", "g_states_per_core_second", "share_of_peak"}) {
      EXPECT_EQ(cell[key]["samples"].size(), 2u) << key;
      EXPECT_GT(cell[key]["min"].get<double>(), 0) << key;
    }
  }
}

TEST(BenchCoder, ThreadsDoNotChangeTheCodes) {
  nlohmann::json errors[2];
  for (const int threads : {1, 2}) {
    const ProcessResult result = bench_coder({"--bits", "4", "--threads", std::to_string(threads), "--json"});
    ASSERT_EQ(result.code, 0) << result.err;
    const nlohmann::json json = nlohmann::json::parse(result.out);
    errors[threads - 1] = {json["results"][0]["mse"], json["results"][0]["steps_per_weight"]};
  }
  EXPECT_EQ(errors[0], errors[1]);
}

TEST(BenchCoder, RefusesWhatDoesNotExist) {
  expect_error(bench_coder({"--bits", "9"}), 2, "--bits");
  expect_error(bench_coder({"--codebook", "e8"}), 2, "--codebook");
  expect_error(bench_coder({"--isa", "sse2"}), 2, "--isa");
  expect_error(bench_coder({"--effort", "none"}), 2, "--effort");
  expect_error(bench_coder({"--tiles", "0"}), 2, "--tiles");
}

}  // namespace
}  // namespace fairway::test
