// Killed jobs of fairway quantize: at any moment, also while the finished model is written, and nothing is lost or
// changed by it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <random>
#include <thread>

#include "cli/quantize_fixture.h"
#include "common/folder_contents.h"

namespace fairway::test {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

// A run of the program that can be killed; its output goes nowhere.
class KillableRun {
 public:
  explicit KillableRun(const std::vector<std::string>& args) {
    std::vector<char*> argv = arguments_of(args);
    child_ = fork();
    if (child_ < 0) throw std::runtime_error("fork failed");
    if (child_ > 0) return;
    const int nowhere = open("/dev/null", O_RDWR);
    dup2(nowhere, 1);
    dup2(nowhere, 2);
    execv(FAIRWAY_BINARY, argv.data());
    _exit(127);
  }
  ~KillableRun() { kill_now(); }
  KillableRun(const KillableRun&) = delete;
  KillableRun& operator=(const KillableRun&) = delete;

  // Waits until `ready` holds; false if the run has ended before.
  template <typename Ready>
  bool wait_until(const Ready& ready) {
    while (!ready()) {
      if (waitpid(child_, &status_, WNOHANG) == child_) {
        child_ = -1;
        return false;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }
  bool wait_for(Seconds delay) {
    const auto end = Clock::now() + delay;
    return wait_until([&] { return Clock::now() >= end; });
  }
  // 0 if the run ended by itself and well.
  int code() const { return exit_code(status_); }

  void kill_now() {
    if (child_ < 0) return;
    kill(child_, SIGKILL);
    waitpid(child_, &status_, 0);
    child_ = -1;
  }

 private:
  pid_t child_ = -1;
  int status_ = 0;
};

class QuantizeKilled : public QuantizeFixture {
 protected:
  static constexpr int kKills = 20, kMostRuns = 200;

  QuantizeKilled() {
    TinySpec small = spec();
    small.heads = 2;
    small.experts = 2;
    fs::remove_all(source());
    write_tiny_checkpoint(source(), small, TinyForm::kDequantizedF32);
  }

  // Changes when a run begins to assemble `out`, also if one that was killed has left its folder.
  fs::file_time_type assembly_time(const std::string& out) const {
    std::error_code absent;
    return fs::last_write_time(path(out + ".assembling"), absent);
  }

  // The job without a kill, and how long it and its last step take.
  void run_whole() {
    const auto start = Clock::now();
    KillableRun run(args("whole", job_));
    run.wait_until([&] { return fs::exists(path("whole.assembling")); });  // first seen, so up to 1 ms late
    assembly_starts_ = Clock::now() - start;
    run.wait_until([] { return false; });
    ASSERT_EQ(run.code(), 0);
    duration_ = Clock::now() - start;
    expected_ = contents(path("whole"));
  }

  // One run of the other job. Returns whether it was killed; if not, it has ended well and its result is checked.
  bool run_and_kill(bool in_assembly) {
    std::uniform_real_distribution<double> share(0, 1);
    const auto left = assembly_time("killed");
    KillableRun run(args("killed", resumed_));
    bool killed = true;
    if (in_assembly) {
      const auto begun = [&] { return fs::exists(path("killed.assembling")) && assembly_time("killed") != left; };
      killed = run.wait_until(begun) && run.wait_for(share(random_) * (duration_ - assembly_starts_));
    } else {
      killed = run.wait_for(share(random_) * duration_);
    }
    run.kill_now();
    if (!killed) {
      EXPECT_EQ(run.code(), 0);
    }
    // What looks complete is complete, also if the kill came after it was put in place.
    if (!killed || fs::exists(path("killed"))) {
      EXPECT_EQ(contents(path("killed")), expected_);
    }
    return killed;
  }

  const std::vector<std::string> job_ = {"-b", "3", "--allocation", "uniform"};
  const std::vector<std::string> resumed_ = {"-b", "3", "--allocation", "uniform", "--resume"};
  std::mt19937_64 random_;
  Seconds duration_{}, assembly_starts_{};
  decltype(contents("")) expected_;
};

// Kills are spread evenly over the time of a whole job; a fourth of them falls into the assembly, which is short. A job
// that gets done between two kills is begun anew.
TEST_F(QuantizeKilled, TwentyTimesAtRandomMomentsGoesOnToTheSameBytes) {
  const unsigned seed = std::random_device{}();
  random_.seed(seed);
  run_whole();
  ASSERT_FALSE(HasFatalFailure());
  int kills = 0, in_assembly = 0, completions = 0;
  for (int runs = 0; kills < kKills && runs < kMostRuns && !HasFailure(); ++runs) {
    const bool assembly = kills % 4 == 3;
    if (run_and_kill(assembly)) {
      ++kills;
      in_assembly += assembly;
    } else {
      ++completions;
      fs::remove_all(path("killed"));
    }
  }
  const std::string what = "seed " + std::to_string(seed) + ", " + std::to_string(kills) + " kills, " +
                           std::to_string(completions) + " completions, " + std::to_string(duration_.count()) +
                           " s undisturbed, " + std::to_string((duration_ - assembly_starts_).count()) +
                           " s of it assembly";
  RecordProperty("what", what);
  std::printf("%s\n", what.c_str());
  EXPECT_EQ(kills, kKills) << what;
  EXPECT_GT(in_assembly, 0) << what;
  const ProcessResult last = quantize("killed", resumed_);
  ASSERT_EQ(last.code, 0) << last.err << what;
  EXPECT_EQ(contents(path("killed")), expected_) << what;
  EXPECT_FALSE(fs::exists(path("killed.partial")));
  EXPECT_FALSE(fs::exists(path("killed.assembling")));
}

// The run that ends a job puts the model in its place, then removes the parts: a kill in between leaves some of them.
TEST_F(QuantizeKilled, AfterTheModelIsInPlaceOnlyTidyingIsLeft) {
  KillableRun run(args("out", job_));
  const fs::path work = path("out.partial");
  ASSERT_TRUE(run.wait_until([&] { return fs::exists(work) && contents(work).size() > 4; }));
  run.kill_now();
  fs::copy(work, path("parts"), fs::copy_options::recursive);
  ASSERT_EQ(quantize("out", resumed_).code, 0);
  ASSERT_FALSE(fs::exists(work));
  const auto expected = contents(path("out"));
  fs::rename(path("parts"), work);
  fs::create_directories(path("out.assembling") / "model");
  const ProcessResult again = quantize("out", resumed_);
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_TRUE(contains(again.out, "finished it before")) << again.out;
  EXPECT_EQ(contents(path("out")), expected);
  EXPECT_FALSE(fs::exists(work));
  EXPECT_FALSE(fs::exists(path("out.assembling")));
  // Another job is not mistaken for it.
  expect_error(quantize("out", {"-b", "2", "--allocation", "uniform"}), 2, "--force");
}

}  // namespace
}  // namespace fairway::test
