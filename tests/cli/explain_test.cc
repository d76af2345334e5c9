// fairway explain, --explain, and the tuned table at start-up.
#include <gtest/gtest.h>

#include <cstdlib>

#include "cli/process.h"
#include "common/tiny_checkpoint.h"

namespace fairway::test {
namespace {

// Sets another value of a variable for the programs that a test runs.
class Environment {
 public:
  Environment(const char* name, const std::string& value) : name_(name), before_(std::getenv(name)) {
    setenv(name, value.c_str(), 1);
  }
  ~Environment() { setenv(name_, before_.c_str(), 1); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
  std::string before_;
};

std::string tuned_table(const TempDir& dir, const std::string& batch_sizes) {
  const std::string file = (dir.path() / "table.json").string();
  const ProcessResult result = run_fairway({"autotune", "--geometry", "demo", "--bits", "3", "--batch-sizes",
                                            batch_sizes, "--iterations", "4", "--threads", "1", "--output", file});
  EXPECT_EQ(result.code, 0) << result.err;
  return file;
}

nlohmann::json explain_demo(std::vector<std::string> more) {
  std::vector<std::string> args = {"explain",       "--geometry", "demo",      "--bits", "3",
                                   "--batch-sizes", "1,8",        "--threads", "1",      "--json"};
  args.insert(args.end(), more.begin(), more.end());
  const ProcessResult result = run_fairway(args);
  EXPECT_EQ(result.code, 0) << result.err;
  return result.json();
}

TEST(Explain, RulesWithoutATable) {
  const nlohmann::json json = explain_demo({});
  expect_keys(json, {"threads", "table", "layers"});
  EXPECT_EQ(json["table"]["used"], false);
  ASSERT_EQ(json["layers"].size(), 1u);
  const nlohmann::json& calls = json["layers"][0]["calls"];
  ASSERT_EQ(calls.size(), 2u);
  for (const nlohmann::json& call : calls) {
    expect_keys(call, {"tokens", "bits", "kernel", "reason", "why", "fallback", "line", "candidates", "runner_up",
                       "margin", "margin_is"});
    EXPECT_EQ(call["reason"], "rules");
    EXPECT_EQ(call["margin_is"], "predicted");
    EXPECT_EQ(call["candidates"][0]["kernel"], call["kernel"]);
    EXPECT_GT(call["candidates"][0]["predicted_ms"].get<double>(), 0);
    EXPECT_TRUE(call["candidates"][0]["measured_ms"].is_null());
    EXPECT_TRUE(contains(call["line"], call["kernel"])) << call["line"];
  }
}

TEST(Explain, AForcedKernelIsItsOwnReason) {
  const nlohmann::json json = explain_demo({"--kernel", "mixed_bpw_kernel", "--backend", "cpu_ref"});
  for (const nlohmann::json& call : json["layers"][0]["calls"]) {
    EXPECT_EQ(call["reason"], "forced");
    EXPECT_EQ(call["kernel"], "cpu_ref/mixed_bpw_kernel");
    EXPECT_TRUE(call["runner_up"].is_null());
  }
}

TEST(Explain, ACodebookWithoutIntegerRowsSaysWhatFellBack) {
  const ProcessResult result = run_fairway(
      {"explain", "--geometry", "qwen3-30b", "--batch-sizes", "1", "--codebook", "3inst", "--backend", "cpu_ref"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "nothing fell back")) << result.out;  // cpu_ref was asked for
}

TEST(Explain, ATableGivesMeasuredTimes) {
  const TempDir dir;
  const nlohmann::json json = explain_demo({"--table", tuned_table(dir, "8")});
  EXPECT_EQ(json["table"]["used"], true);
  EXPECT_EQ(json["table"]["entries"], 1);
  const nlohmann::json& calls = json["layers"][0]["calls"];
  EXPECT_EQ(calls[0]["reason"], "rules");  // one token is no neighbour of eight
  EXPECT_EQ(calls[1]["reason"], "tuned");
  EXPECT_TRUE(contains(calls[1]["why"], "exact")) << calls[1];
  EXPECT_EQ(calls[1]["margin_is"], "measured");
  EXPECT_GT(calls[1]["candidates"][0]["measured_ms"].get<double>(), 0);
}

TEST(Explain, AModelsLayersByKind) {
  const ProcessResult result = run_fairway({"explain", "--model", kModel, "--batch-sizes", "1,16", "--threads", "2"});
  ASSERT_EQ(result.code, 0) << result.err;
  for (const char* part : {"layers of 32 experts of 384 x 128", "rules", "runner-up", "predicted", "2 threads"}) {
    EXPECT_TRUE(contains(result.out, part)) << part << " is missing in\n" << result.out;
  }
}

TEST(Explain, RefusesWhatItCannotExplain) {
  expect_error(run_fairway({"explain", "--batch-sizes", "1"}), 2, "--geometry");
  expect_error(run_fairway({"explain", "--geometry", "demo", "--model", kModel, "--batch-sizes", "1"}), 2, "--model");
  expect_error(run_fairway({"explain", "--geometry", "moon", "--batch-sizes", "1"}), 2, "moon");
  expect_error(run_fairway({"explain", "--geometry", "demo", "--bits", "9", "--batch-sizes", "1"}), 2, "--bits");
  expect_error(run_fairway({"explain", "--model", kModel, "--bits", "3", "--batch-sizes", "1"}), 2, "--bits");
  expect_error(run_fairway({"explain", "--geometry", "demo", "--batch-sizes", "0"}), 2, "--batch-sizes");
}

const std::vector<std::string> kRun = {"run",          "--model", kModel,      "--prompt", "The old house",
                                       "--max-tokens", "3",       "--threads", "1",        "--no-prompt-echo"};

ProcessResult run_with(std::vector<std::string> more) {
  std::vector<std::string> args = kRun;
  args.insert(args.end(), more.begin(), more.end());
  return run_fairway(args);
}

TEST(StartUp, AFileThatIsNotUsableIsAMissWithOneLine) {
  const TempDir dir;
  const std::string good = read_file(tuned_table(dir, "1"));
  nlohmann::json foreign = nlohmann::json::parse(good), stale = foreign, future = foreign;
  foreign["device_name"] = "Some Other Processor";
  stale["registry_hash"] = "0000000000000000";
  future["schema_version"] = 99;
  const ProcessResult plain = run_with({});
  for (const auto& [text, what] : {std::pair<std::string, std::string>{"{ \"schema_ver", "not JSON"},
                                   {"", "bad.json"},
                                   {good.substr(0, good.size() / 2), "not JSON"},
                                   {foreign.dump(), "Some Other Processor"},
                                   {stale.dump(), "0000000000000000"},
                                   {future.dump(), "99"}}) {
    const Environment table("FAIRWAY_AUTOTUNE", write_file(dir.path() / "bad.json", text));
    const ProcessResult result = run_with({});
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(result.out, plain.out);
    EXPECT_TRUE(result.err.starts_with("fairway: note: ")) << result.err;
    EXPECT_TRUE(contains(result.err, what)) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 2) << result.err;  // and the statistics
    EXPECT_FALSE(contains(run_with({"--no-table"}).err, "note:"));
  }
}

TEST(StartUp, ATableThatIsAskedForMustBeUsable) {
  const TempDir dir;
  expect_error(run_with({"--table", (dir.path() / "none.json").string()}), 2, "none.json");
  expect_error(run_with({"--table", write_file(dir.path() / "bad.json", "{}")}), 2, "bad.json");
  expect_error(run_with({"--table", "x", "--no-table"}), 2, "--no-table");
}

TEST(StartUp, TheTableOfTheDefaultPathIsUsed) {
  const TempDir dir;
  const std::string file = (dir.path() / "table.json").string();
  const ProcessResult tuned = run_fairway(
      {"autotune", "--model", kModel, "--batch-sizes", "1", "--iterations", "3", "--threads", "1", "--output", file});
  ASSERT_EQ(tuned.code, 0) << tuned.err;
  const Environment table("FAIRWAY_AUTOTUNE", file);
  const ProcessResult result = run_with({"--explain"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.err, "moe_swiglu, 1 tokens")) << result.err;
  EXPECT_TRUE(contains(result.err, "tuned")) << result.err;
  EXPECT_FALSE(contains(run_with({"--explain", "--no-table"}).err, "tuned"));
}

TEST(StartUp, ExplainSaysOneLinePerSite) {
  const ProcessResult result = run_with({"--explain"});
  ASSERT_EQ(result.code, 0) << result.err;
  std::size_t lines = 0;
  for (std::size_t at = result.err.find("moe_swiglu, "); at != std::string::npos;
       at = result.err.find("moe_swiglu, ", at + 1)) {
    ++lines;
  }
  EXPECT_GE(lines, 2u) << result.err;  // the prompt's pass and the single tokens
  EXPECT_FALSE(contains(run_with({}).err, "moe_swiglu, "));
}

TEST(StartUp, TelemetryInBothFormats) {
  const TempDir dir;
  const std::string json = (dir.path() / "t.json").string(), prometheus = (dir.path() / "t.prom").string();
  ASSERT_EQ(run_with({"--telemetry", json}).code, 0);
  EXPECT_EQ(nlohmann::json::parse(read_file(json))["learns"], false);
  ASSERT_EQ(run_with({"--learn", "--telemetry", prometheus}).code, 0);
  EXPECT_TRUE(contains(read_file(prometheus), "# TYPE fairway_moe_calls_total counter")) << read_file(prometheus);
  EXPECT_TRUE(contains(read_file(prometheus), "fairway_moe_latency_seconds{")) << read_file(prometheus);
  const ProcessResult result = run_with({"--telemetry", "/dev/null/t.json"});
  EXPECT_EQ(result.code, 3);
  EXPECT_TRUE(contains(result.err, "--telemetry")) << result.err;
}

TEST(StartUp, LearningIsAskedForAndTextIsTheSameWithout) {
  EXPECT_EQ(run_with({}).out, run_with({}).out);
  const ProcessResult result = run_with({"--learn", "--max-tokens", "40", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.json()["ids"].size(), 40u);
  EXPECT_TRUE(contains(run_fairway({"run", "--help"}).out, "--learn"));
}

TEST(StartUp, BenchReportsKernelAndReasonPerSite) {
  for (const char* kind : {"decode", "moe"}) {
    std::vector<std::string> args = {"bench",     kind,  "--model-path",  kModel, "--warmup", "0", "--runs", "1",
                                     "--threads", "1,2", "--ceiling-mib", "16",   "--json"};
    if (std::string(kind) == "moe") {
      args.insert(args.end(), {"--batch", "1,8", "--cell-seconds", "0"});
    } else {
      args.insert(args.end(), {"--prompt-len", "4", "--decode-tokens", "2"});
    }
    const ProcessResult result = run_fairway(args);
    ASSERT_EQ(result.code, 0) << result.err;
    const nlohmann::json selection = result.json()["selection"];
    expect_keys(selection, {"table", "learn", "sites"});
    EXPECT_EQ(selection["learn"], false);
    ASSERT_GE(selection["sites"].size(), 4u);  // two thread counts, two sizes of a call
    for (const nlohmann::json& site : selection["sites"]) {
      expect_keys(site, {"threads", "tokens", "bits", "kernel", "reason", "why", "fallback", "calls"});
      EXPECT_EQ(site["reason"], "rules");
      EXPECT_TRUE(site["calls"].contains(site["kernel"])) << site;
    }
  }
}

}  // namespace
}  // namespace fairway::test
