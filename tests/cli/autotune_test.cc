// fairway autotune and optimize: what they measure, write, and keep after Ctrl-C.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>
#include <thread>

#include "cli/process.h"
#include "common/tiny_checkpoint.h"

namespace fairway::test {
namespace {

ProcessResult autotune(std::vector<std::string> more) {
  std::vector<std::string> args = {"autotune", "--threads", "1"};
  args.insert(args.end(), more.begin(), more.end());
  return run_fairway(args);
}

TEST(Autotune, AModelsLayersWithRecordedInputs) {
  const TempDir dir;
  const std::string file = (dir.path() / "new" / "table.json").string();
  const ProcessResult result =
      autotune({"--model", kModel, "--batch-sizes", "1,4", "--iterations", "4", "--output", file, "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const nlohmann::json json = result.json();
  expect_keys(json, {"output", "entries_in_file", "stop", "tasks"});
  EXPECT_EQ(json["stop"], "complete");
  ASSERT_EQ(json["tasks"].size(), 1u);
  const nlohmann::json& task = json["tasks"][0];
  EXPECT_TRUE(contains(task["layers"], "hidden states and routing of")) << task["layers"];
  std::set<int> tokens;
  for (const nlohmann::json& entry : task["entries"]) {
    tokens.insert(entry["tokens"].get<int>());
    EXPECT_GT(entry["ms"].get<double>(), 0);
    EXPECT_TRUE(entry["weights_from"] == "memory" || entry["weights_from"] == "cache");
    std::set<std::string> measured;
    for (const nlohmann::json& kernel : entry["measured"]) measured.insert(kernel["kernel"]);
    EXPECT_TRUE(measured.contains(entry["default"])) << entry;  // the default always takes part
    EXPECT_TRUE(measured.contains(entry["kernel"])) << entry;
  }
  EXPECT_EQ(tokens, (std::set<int>{1, 4}));
  EXPECT_EQ(nlohmann::json::parse(read_file(file))["entries"].size(), task["entries"].size());
}

TEST(Autotune, ATableGrowsAndADamagedOneIsReplaced) {
  const TempDir dir;
  const std::string file = write_file(dir.path() / "table.json", "{ damaged");
  const ProcessResult first =
      autotune({"--geometry", "demo", "--batch-sizes", "2", "--iterations", "3", "--output", file, "--json"});
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_TRUE(contains(first.err, "replaced")) << first.err;
  EXPECT_EQ(first.json()["entries_in_file"], 1);
  const ProcessResult second =
      autotune({"--geometry", "demo", "--batch-sizes", "2,8", "--iterations", "3", "--output", file, "--json"});
  ASSERT_EQ(second.code, 0) << second.err;
  EXPECT_EQ(second.err, "");
  EXPECT_EQ(second.json()["entries_in_file"], 2);
}

// That a budget is kept is a test of the tuner, with a clock that does not depend on what else the machine does.
TEST(Autotune, QuickTimesFewSizesAFewTimes) {
  const TempDir dir;
  const ProcessResult result = autotune(
      {"--geometry", "demo", "--quick", "--budget", "3", "--output", (dir.path() / "t.json").string(), "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const nlohmann::json task = result.json()["tasks"][0];
  ASSERT_GE(task["entries"].size(), 1u);
  EXPECT_EQ(task["complete"], task["entries"].size() == 5u);
  for (const nlohmann::json& entry : task["entries"]) {
    EXPECT_TRUE(std::set<int>({1, 4, 16, 64, 256}).contains(entry["tokens"].get<int>())) << entry["tokens"];
    for (const nlohmann::json& kernel : entry["measured"]) EXPECT_LE(kernel["samples_ms"].size(), 8u);
  }
}

TEST(Autotune, TheTableIsPrinted) {
  const TempDir dir;
  const ProcessResult result = autotune({"--geometry", "demo", "--bits", "3;4", "--batch-sizes", "1,16", "--iterations",
                                         "3", "--output", (dir.path() / "t.json").string()});
  ASSERT_EQ(result.code, 0) << result.err;
  for (const char* part : {"random mul1 weights", "normal inputs", "tokens", "default ms", "gain", "samples",
                           "weights from", "2 entries written"}) {
    EXPECT_TRUE(contains(result.out, part)) << part << " is missing in\n" << result.out;
  }
}

TEST(Autotune, CtrlCKeepsTheBestSoFar) {
  const TempDir dir;
  const std::string file = (dir.path() / "table.json").string();
  const ProcessResult result =
      interrupt_at_work({"autotune", "--threads", "1", "--geometry", "demo", "--batch-sizes", "1", "--iterations",
                         "1000000", "--budget", "600", "--output", file, "--json"});
  ASSERT_EQ(result.code, 130) << result.err;
  EXPECT_TRUE(contains(result.err, "interrupted")) << result.err;
  EXPECT_EQ(result.json()["stop"], "cancelled");
  EXPECT_EQ(nlohmann::json::parse(read_file(file))["entries"].size(), 1u);
}

TEST(Autotune, TwoProcessesMayTuneAtOnce) {
  const TempDir dir;
  const std::string file = (dir.path() / "table.json").string();
  ProcessResult results[2];
  const auto tune = [&](int i) {
    results[i] =
        autotune({"--geometry", "demo", "--batch-sizes", i == 0 ? "1" : "2", "--iterations", "3", "--output", file});
  };
  std::thread other(tune, 1);
  tune(0);
  other.join();
  EXPECT_EQ(results[0].code, 0) << results[0].err;
  EXPECT_EQ(results[1].code, 0) << results[1].err;
  const ProcessResult explained =
      run_fairway({"explain", "--geometry", "demo", "--batch-sizes", "1", "--table", file, "--json"});
  ASSERT_EQ(explained.code, 0) << explained.err;
  EXPECT_EQ(explained.json()["table"]["used"], true);
  for (const auto& entry : std::filesystem::directory_iterator(dir.path())) {
    EXPECT_EQ(entry.path().filename(), "table.json");  // no draft is left behind
  }
}

TEST(Autotune, RefusesWhatItCannotTune) {
  expect_error(autotune({}), 2, "--geometry");
  expect_error(autotune({"--geometry", "demo", "--profile", "mixed_bpw_fairway_glm47"}), 2, "--profile");
  expect_error(autotune({"--profile", "unheard_of"}), 2, "mixed_bpw_fairway_glm47");
  expect_error(autotune({"--geometry", "moon"}), 2, "moon");
  expect_error(autotune({"--geometry", "demo", "--budget", "0"}), 2, "--budget");
  expect_error(autotune({"--model", "/nowhere/model"}), 2, "/nowhere/model");
  expect_error(autotune({"--geometry", "demo", "--batch-sizes", "1", "--iterations", "1", "--output",
                         "/proc/no-such-place/table.json"}),
               3, "/proc/no-such-place/table.json");
}

ProcessResult optimize(std::vector<std::string> more) {
  std::vector<std::string> args = {"optimize", "--geometry", "demo", "--threads", "1", "--iterations", "3"};
  args.insert(args.end(), more.begin(), more.end());
  return run_fairway(args);
}

TEST(Optimize, StructuresWithOneAndTwoWorkers) {
  const ProcessResult result = optimize({"--structural", "--batch-sizes", "8", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const nlohmann::json json = result.json();
  expect_keys(json, {"threads", "layers", "output", "stop", "comparisons"});
  ASSERT_EQ(json["comparisons"].size(), 1u);
  std::set<std::string> structures;
  std::set<int> workers;
  for (const nlohmann::json& kernel : json["comparisons"][0]["results"]) {
    structures.insert(kernel["structure"]);
    workers.insert(kernel["workers"].get<int>());
  }
  EXPECT_EQ(structures.size(), 4u) << json["comparisons"][0];
  EXPECT_EQ(workers, (std::set<int>{1, 2}));
}

TEST(Optimize, TilesOfOneKernel) {
  const ProcessResult result = optimize({"--kernel", "moe_trellis_swiglu_grouped", "--batch-sizes", "16", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const nlohmann::json results = result.json()["comparisons"][0]["results"];
  EXPECT_GT(results.size(), 5u);
  for (std::size_t i = 1; i < results.size(); ++i) EXPECT_GE(results[i]["ms"], results[i - 1]["ms"]);
}

TEST(Optimize, AllAsTextWritesNothingUnlessAsked) {
  const TempDir dir;
  const ProcessResult plain = optimize({"--all", "--batch-sizes", "1"});
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_TRUE(contains(plain.out, "to default")) << plain.out;
  EXPECT_FALSE(contains(plain.out, "in the file")) << plain.out;
  const std::string file = (dir.path() / "table.json").string();
  ASSERT_EQ(optimize({"--all", "--batch-sizes", "1", "--output", file}).code, 0);
  EXPECT_EQ(nlohmann::json::parse(read_file(file))["entries"].size(), 1u);
}

TEST(Optimize, RefusesWhatItCannotCompare) {
  expect_error(optimize({}), 2, "--structural");
  expect_error(optimize({"--all", "--structural"}), 2, "--structural");
  expect_error(optimize({"--kernel", "warp_drive"}), 2, "warp_drive");
  expect_error(optimize({"--all", "--profile", "mixed_bpw_fairway_glm47"}), 2, "--profile");
  expect_error(run_fairway({"optimize", "--all", "--profile", "unheard_of"}), 2, "unheard_of");
}

TEST(Autotune, OnACudaDeviceItTakesItsOwnOptions) {
  expect_error(autotune({"--device", "cuda"}), 2, "--config");
  expect_error(autotune({"--device", "cuda", "--geometry", "demo"}), 2, "--geometry");
  expect_error(autotune({"--config", "config.json", "--model", kModel}), 2, "--device");
  // No machine has a device of that number; without any, the message says why.
  expect_error(autotune({"--device", "cuda:99", "--model", kModel}), 2, "CUDA");
  expect_error(run_fairway({"run", "--device", "cuda:99", "--model", kModel, "--prompt", "a", "--table", "/none.json"}),
               2, "CUDA");
}

}  // namespace
}  // namespace fairway::test
