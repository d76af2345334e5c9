// fairway quantize on small random models: plans, bytes that depend on nothing but the job, kills and resumption,
// errors.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <random>
#include <set>
#include <thread>

#include "cli/process.h"
#include "common/folder_contents.h"
#include "common/tiny_checkpoint.h"

namespace fairway::test {
namespace {

namespace fs = std::filesystem;

class Quantize : public testing::Test {
 protected:
  Quantize() {
    TinySpec spec;
    spec.hidden = 128;
    spec.experts = 3;
    spec.top_k = 2;
    spec.expert_intermediate = 96;
    spec.dense_intermediate = 128;
    write_tiny_checkpoint(dir_.path() / "source", spec, TinyForm::kDequantizedF32);
    std::string text;
    for (int i = 0; i < 60; ++i)
      text += "The mill by the river ground corn for " + std::to_string(7 * i) + " farms.\n\n";
    text_ = write_file(dir_.path() / "text.txt", text);
  }

  std::vector<std::string> args(const std::string& out, std::vector<std::string> more) const {
    std::vector<std::string> all = {"quantize",
                                    source(),
                                    "--calibration",
                                    text_,
                                    "-o",
                                    (dir_.path() / out).string(),
                                    "--threads",
                                    "2",
                                    "--calibration-tokens",
                                    "256",
                                    "--calibration-window",
                                    "64"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  ProcessResult quantize(const std::string& out, std::vector<std::string> more) const {
    return run_fairway(args(out, std::move(more)));
  }
  std::string source() const { return (dir_.path() / "source").string(); }
  fs::path path(const std::string& name) const { return dir_.path() / name; }

  TempDir dir_;
  std::string text_;
};

TEST_F(Quantize, WritesAModelThatIsVerifiedAndClose) {
  const ProcessResult result = quantize("out", {"-b", "4", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const nlohmann::json json = result.json();
  expect_keys(json, {"out", "bytes", "files", "resumed", "seconds", "matrices"});
  for (const auto& [prefix, facts] : json["matrices"].items()) {
    EXPECT_LT(facts["relative_error"].get<double>(), 0.3) << prefix;
    EXPECT_GT(facts["calibration_rows"].get<int>(), 0) << prefix;
  }
  EXPECT_FALSE(fs::exists(path("out.partial")));
  const ProcessResult verified = run_fairway({"verify-model", path("out").string()});
  EXPECT_EQ(verified.code, 0) << verified.out << verified.err;
  const ProcessResult compared = run_fairway(
      {"compare", source(), path("out").string(), "--text", text_, "--window", "64", "--windows", "2", "--json"});
  ASSERT_EQ(compared.code, 0) << compared.err;
}

TEST_F(Quantize, BytesDoNotDependOnThreads) {
  ASSERT_EQ(quantize("two", {"-b", "2.5"}).code, 0);
  std::vector<std::string> one = args("one", {"-b", "2.5"});
  *std::find(one.begin(), one.end(), "2") = "1";
  const ProcessResult result = run_fairway(one);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(contents(path("one")), contents(path("two")));
}

TEST_F(Quantize, AKilledJobGoesOnToTheSameBytes) {
  const std::vector<std::string> job = {"-b", "3", "--allocation", "uniform"};
  ASSERT_EQ(quantize("whole", job).code, 0);
  std::vector<std::string> all = args("killed", job);
  all.push_back("--resume");
  std::mt19937 random(std::random_device{}());
  int kills = 0, code = -1;
  for (int milliseconds = 60; code != 0 && milliseconds < 600000; milliseconds += milliseconds / 2) {
    std::vector<char*> argv{const_cast<char*>(FAIRWAY_BINARY)};
    for (const std::string& arg : all) argv.push_back(const_cast<char*>(arg.c_str()));
    argv.push_back(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      const int nowhere = open("/dev/null", O_RDWR);
      dup2(nowhere, 1);
      dup2(nowhere, 2);
      execv(FAIRWAY_BINARY, argv.data());
      _exit(127);
    }
    const int wait_ms = milliseconds / 2 + static_cast<int>(random() % static_cast<unsigned>(milliseconds));
    int status = 0;
    bool ended = false;
    for (int waited = 0; waited < wait_ms && !ended; waited += 5) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      ended = waitpid(child, &status, WNOHANG) == child;
    }
    if (!ended) {
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      ++kills;
    }
    if (ended) {
      code = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
      ASSERT_EQ(code, 0);
    }
  }
  EXPECT_EQ(code, 0);
  EXPECT_GT(kills, 0);
  EXPECT_EQ(contents(path("killed")), contents(path("whole")));
}

TEST_F(Quantize, APlanIsMadeSavedAndUsed) {
  const std::string plan = path("plan.yaml").string(), losses = path("losses.json").string();
  const ProcessResult made =
      quantize("none", {"-b", "3", "--plan-only", "--save-plan", plan, "--save-sensitivity", losses, "--json"});
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_FALSE(fs::exists(path("none")));
  const nlohmann::json made_plan = made.json();
  std::set<int> widths;
  for (const nlohmann::json& linear : made_plan["linears"]) widths.insert(linear["bits"].get<int>());
  EXPECT_GT(widths.size(), 1u);
  const ProcessResult again = quantize("none", {"-b", "3", "--plan-only", "--sensitivity", losses, "--json"});
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(again.json()["linears"], made_plan["linears"]);
  const ProcessResult used = quantize("planned", {"--plan", plan, "--json"});
  ASSERT_EQ(used.code, 0) << used.err;
  const nlohmann::json used_report = used.json();
  for (const nlohmann::json& linear : made_plan["linears"]) {
    EXPECT_EQ(used_report["matrices"][linear["prefix"].get<std::string>()]["bits"], linear["bits"]);
  }
}

TEST_F(Quantize, RefusesWhatItCannotDo) {
  expect_error(run_fairway({"quantize", source(), "-o", path("x").string(), "--calibration", text_}), 2, "--plan FILE");
  expect_error(quantize("x", {"-b", "3", "--size", "100000"}), 2, "exactly one");
  expect_error(run_fairway({"quantize", source(), "-o", path("x").string(), "-b", "3"}), 2, "--calibration");
  expect_error(quantize("x", {"-b", "3", "--allocation", "best"}), 2, "best");
  expect_error(quantize("x", {"--size", "1000"}), 2, "1000");
  expect_error(
      run_fairway({"quantize", path("nowhere").string(), "-b", "3", "-o", path("x").string(), "--calibration", text_}),
      2, "nowhere");
  const std::string bundled = FAIRWAY_SOURCE_DIR "/models/books-moe";
  expect_error(run_fairway({"quantize", bundled, "-b", "3", "-o", path("x").string(), "--calibration", text_}), 2,
               "trellis-coded already");
  fs::create_directories(path("y.partial"));
  expect_error(quantize("y", {"-b", "3"}), 2, "--resume");
}

}  // namespace
}  // namespace fairway::test
