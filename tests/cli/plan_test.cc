// Plans of fairway autotune: strict reading, and verify commands that cannot go wrong as those of the founding
// documents did.
#include "cli/plan.h"

#include <gtest/gtest.h>

#include "cli/process.h"
#include "common/tiny_checkpoint.h"
#include "fairway/error.h"

namespace fairway::test {
namespace {

const std::string kGood =
    "schema: fairway-autotune-plan-1\n"
    "tasks:\n"
    "  - name: small\n"
    "    geometry: demo\n"
    "    bits: 6,2,3\n"
    "    batch_sizes: [1, 4]\n"
    "    threads: 1\n"
    "    iterations: 3\n"
    "    budget: 20\n"
    "    verify: [fairway, verify, --kernel, moe_trellis_swiglu_grouped, --rounds, 1]\n";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

void expect_refused(const std::string& text, const std::string& where, const std::string& what) {
  try {
    cli::parse_plan(text, "plan.yaml");
    ADD_FAILURE() << "accepted:\n" << text;
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kBadInput);
    EXPECT_TRUE(contains(e.what(), "plan.yaml: " + where)) << e.what();
    EXPECT_TRUE(contains(e.what(), what)) << e.what();
  }
}

TEST(Plan, EveryKeyIsRead) {
  const auto tasks = cli::parse_plan(kGood, "plan.yaml");
  ASSERT_EQ(tasks.size(), 1u);
  EXPECT_EQ(tasks[0].name, "small");
  EXPECT_EQ(tasks[0].layers.geometry, "demo");
  EXPECT_EQ(tasks[0].layers.bits, "6,2,3");
  EXPECT_EQ(tasks[0].batch_sizes, (std::vector<int>{1, 4}));
  EXPECT_EQ(tasks[0].threads, 1);
  EXPECT_EQ(tasks[0].iterations, 3);
  EXPECT_EQ(tasks[0].budget_seconds, 20);
  EXPECT_EQ(tasks[0].verify.size(), 6u);
}

TEST(Plan, WhatItWritesItReadsBack) {
  const auto tasks = cli::parse_plan(kGood, "plan.yaml");
  const std::string text = cli::plan_text(tasks);
  const auto again = cli::parse_plan(text, "plan.yaml");
  EXPECT_EQ(cli::plan_text(again), text);
  EXPECT_EQ(again[0].verify, tasks[0].verify);
}

TEST(Plan, ErrorsNameLineAndKey) {
  expect_refused(replaced(kGood, "iterations: 3", "iterationz: 3"), "line 8", "iterationz");
  expect_refused(replaced(kGood, "threads: 1", "name: again"), "line 7", "twice");
  expect_refused(replaced(kGood, "iterations: 3", "iterations: many"), "line 8", "many");
  expect_refused(replaced(kGood, "iterations: 3", "iterations: 2.5"), "line 8", "integer");
  expect_refused(replaced(kGood, "iterations: 3", "iterations: 0"), "line 8", "iterations");
  expect_refused(replaced(kGood, "[1, 4]", "[1, x]"), "line 6", "batch_sizes");
  expect_refused(replaced(kGood, "    batch_sizes: [1, 4]\n", ""), "line 3", "batch_sizes");
  expect_refused(replaced(kGood, "geometry: demo", "geometry: moon"), "line 3", "moon");
  expect_refused(replaced(kGood, "    geometry: demo\n    bits: 6,2,3\n", ""), "line 3", "--geometry");
  expect_refused(replaced(kGood, "plan-1", "plan-2"), "line 1", "schema");
  expect_refused("schema: [\n", "line ", "not YAML");
  expect_refused("", "", "map");
  expect_refused("- 1\n", "line 1", "map");
}

TEST(Plan, VerifyIsAListOfArguments) {
  expect_refused(replaced(kGood, "[fairway, verify, --kernel, moe_trellis_swiglu_grouped, --rounds, 1]",
                          "fairway verify --rounds 1"),
                 "line 10", "not a list");
}

// The founding documents' tasks ran `rg -q "--profile" FILE`, which rg takes for an option.
TEST(PlanLint, ThePatternThatLooksLikeAnOptionIsRefused) {
  for (const char* pattern : {"--profile", "--mode", "-x-y"}) {
    const std::string problem = cli::lint_command({"rg", "-q", pattern, "scripts/optimize_kernel.py"});
    EXPECT_TRUE(contains(problem, "`--`")) << problem;
    EXPECT_TRUE(contains(problem, pattern)) << problem;
    EXPECT_EQ(cli::lint_command({"rg", "-q", "--", pattern, "scripts/optimize_kernel.py"}), "");
    EXPECT_EQ(cli::lint_command({"grep", "-qF", "--", pattern, "file"}), "");
  }
  expect_refused(replaced(kGood, "[fairway, verify, --kernel, moe_trellis_swiglu_grouped, --rounds, 1]",
                          "[rg, -q, \"--profile\", scripts/optimize_kernel.py]"),
                 "line 10", "`--`");
}

TEST(PlanLint, SearchesNeedAPatternAndAFile) {
  EXPECT_EQ(cli::lint_command({"rg", "-q", "word", "file"}), "");
  EXPECT_NE(cli::lint_command({"rg", "-q", "word"}), "");
  EXPECT_NE(cli::lint_command({"rg"}), "");
  EXPECT_NE(cli::lint_command({"rg", "-q", "", "file"}), "");
  EXPECT_NE(cli::lint_command({"rg", "-q", "word", "--files"}), "");
}

TEST(PlanLint, FairwayMustHaveTheOptions) {
  EXPECT_EQ(cli::lint_command({"fairway", "verify", "--rounds", "1"}), "");
  EXPECT_EQ(cli::lint_command({"fairway", "kernels", "--json"}), "");
  EXPECT_EQ(cli::lint_command({"fairway", "explain", "--geometry", "glm47", "--batch-sizes", "1,4"}), "");
  EXPECT_TRUE(contains(cli::lint_command({"fairway", "verify", "--profile", "x"}), "--profile"));
  EXPECT_NE(cli::lint_command({"fairway", "verify", "--rounds", "none"}), "");
  EXPECT_NE(cli::lint_command({"fairway", "explain", "--geometry", "glm47"}), "");  // batch sizes are required
  EXPECT_NE(cli::lint_command({"fairway", "verify", "--help"}), "");
  EXPECT_NE(cli::lint_command({"fairway"}), "");
  // What writes, or would start another plan.
  EXPECT_NE(cli::lint_command({"fairway", "autotune", "--geometry", "demo"}), "");
  EXPECT_NE(cli::lint_command({"fairway", "synth", "--config", "x", "--bits", "3", "--out", "y"}), "");
}

TEST(PlanLint, OtherProgramsAreRefused) {
  EXPECT_NE(cli::lint_command({}), "");
  EXPECT_TRUE(contains(cli::lint_command({"sh", "-c", "true"}), "sh"));
  EXPECT_NE(cli::lint_command({"/usr/bin/rg", "-q", "word", "file"}), "");
}

// Every plan that the program emits passes its own lint.
TEST(PlanEmit, EveryPlanPassesTheLint) {
  const TempDir dir;
  const std::string file = (dir.path() / "plan.yaml").string();
  const std::vector<std::vector<std::string>> flags = {
      {"--profile", "mixed_bpw_fairway_glm47"},
      {"--profile", "mixed_bpw_fairway_glm47", "--quick", "--batch-sizes", "1,2", "--budget", "40"},
      {"--geometry", "glm47"},
      {"--geometry", "qwen3-30b", "--bits", "4;2,3,4", "--codebook", "mcg", "--quick"},
      {"--geometry", "demo", "--threads", "2", "--iterations", "5", "--warmup", "0", "--batch-sizes", "3"},
      {"--model", kModel},
      {"--model", kModel + "/", "--text", kSource + "/docs/sample.txt"}};
  for (const std::vector<std::string>& more : flags) {
    std::vector<std::string> args = {"autotune", "--emit-plan", file};
    args.insert(args.end(), more.begin(), more.end());
    const ProcessResult result = run_fairway(args);
    ASSERT_EQ(result.code, 0) << result.err;
    for (const cli::TuneTask& task : cli::read_plan(file)) {
      EXPECT_FALSE(task.verify.empty());
      EXPECT_EQ(cli::lint_command(task.verify), "");
      EXPECT_GT(task.budget_seconds, 0);
    }
  }
}

TEST(PlanEmit, TheProfileHasATaskForEachTuple) {
  const TempDir dir;
  const std::string file = (dir.path() / "plan.yaml").string();
  ASSERT_EQ(run_fairway({"autotune", "--profile", "mixed_bpw_fairway_glm47", "--emit-plan", file}).code, 0);
  const auto tasks = cli::read_plan(file);
  ASSERT_EQ(tasks.size(), 4u);
  double budget = 0;
  for (const cli::TuneTask& task : tasks) {
    EXPECT_EQ(task.layers.geometry, "glm47");
    budget += task.budget_seconds;
  }
  EXPECT_NEAR(budget, 60, 1e-9);
  EXPECT_EQ(tasks[3].layers.bits, "6,2,3;6,3,4;6,2,4");
}

TEST(PlanRun, TunesAndVerifies) {
  const TempDir dir;
  const std::string plan = write_file(dir.path() / "plan.yaml", kGood), table = (dir.path() / "t.json").string();
  const ProcessResult result = run_fairway({"autotune", "--plan", plan, "--output", table, "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.json()["tasks"][0]["name"], "small");  // the command's own output is on standard error
  EXPECT_TRUE(contains(result.err, "agree with the reference")) << result.err;
  EXPECT_EQ(nlohmann::json::parse(read_file(table))["entries"].size(), 2u);
}

TEST(PlanRun, AVerifyThatFailsIsAnError) {
  const TempDir dir;
  const std::string text = replaced(kGood, "[fairway, verify, --kernel, moe_trellis_swiglu_grouped, --rounds, 1]",
                                    "[grep, -q, no such words, " + kSource + "/docs/sample.txt]");
  const ProcessResult result = run_fairway(
      {"autotune", "--plan", write_file(dir.path() / "plan.yaml", text), "--output", (dir.path() / "t.json").string()});
  EXPECT_EQ(result.code, 1) << result.err;
  EXPECT_TRUE(contains(result.err, "verify of task small")) << result.err;
}

TEST(PlanRun, ErrorsNameTheFile) {
  const TempDir dir;
  const std::string file = write_file(dir.path() / "plan.yaml", replaced(kGood, "threads: 1", "thread: 1"));
  expect_error(run_fairway({"autotune", "--plan", file}), 2, file + ": line 7");
  expect_error(run_fairway({"autotune", "--plan", "/nowhere/plan.yaml"}), 2, "/nowhere/plan.yaml");
}

}  // namespace
}  // namespace fairway::test
