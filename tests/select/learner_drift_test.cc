// How the learner behaves against simulated kernels, over many seeds: it moves away from a kernel that became slow and
// comes back, it finds the better arm, and noise does not make it change its mind. No clock, no sleeping.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "select/simulated_arms.h"

namespace fairway::select {
namespace {

using test::calls_until_current;
using test::play;
using test::SimulatedArms;

LearnerOptions options(int seed, int sweep_calls = 20) {
  LearnerOptions options;
  options.seed = static_cast<std::uint64_t>(seed) * 7919 + 1;
  options.sweep_calls = sweep_calls;
  return options;
}

struct Quantiles {
  int p50, p95, p99, most;
};
Quantiles quantiles(std::vector<int> values) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
  };
  return {at(0.5), at(0.95), at(0.99), values.back()};
}

// "Slow one kernel down artificially at run time; the selector moves away within 20 calls and back after."
void slow_down_and_recover(double slowdown) {
  constexpr int kSeeds = 300, kMost = 3000;
  std::vector<int> away, back;
  int slowest_seed = 0;
  double cost = 0;
  for (int seed = 0; seed < kSeeds; ++seed) {
    std::mt19937_64 random(static_cast<std::uint64_t>(seed));
    Learner learner(3, 0, options(seed));
    SimulatedArms arms{{1.0, 1.1, 1.25}};
    play(learner, arms, 200, random);
    ASSERT_EQ(learner.current(), 0) << "seed " << seed;
    arms.mean_ms[0] = slowdown;
    away.push_back(calls_until_current(learner, arms, 1, kMost, random));
    if (away.back() > away[static_cast<std::size_t>(slowest_seed)]) slowest_seed = seed;
    cost += play(learner, arms, 200, random).mean_ms / 1.1 / kSeeds;
    arms.mean_ms[0] = 1.0;
    back.push_back(calls_until_current(learner, arms, 0, kMost, random));
  }
  const Quantiles a = quantiles(away), b = quantiles(back);
  fmt::print(
      "slowed {:.1f} times: away after {} calls (p95 {}, p99 {}, most {}), back after {} (p95 {}, p99 {}, most "
      "{}); {:.1f} % of the time in between is for watching the slow kernel\n",
      slowdown, a.p50, a.p95, a.p99, a.most, b.p50, b.p95, b.p99, b.most, 100 * (cost - 1));
  EXPECT_LE(a.most, 20) << "seed " << slowest_seed;
  EXPECT_LE(b.p50, 32);   // a probe every 32 calls sees it
  EXPECT_LE(b.p95, 200);  // ten percent under five percent of noise may need a few probes more
  EXPECT_LE(b.most, 1000);
}

TEST(LearnerDrift, AKernelSlowedByHalfIsLeftAndTakenBack) {
  slow_down_and_recover(1.5);
}

TEST(LearnerDrift, AKernelSlowedThreeTimesIsLeftAndTakenBack) {
  slow_down_and_recover(3.0);
}

struct Thrash {
  double per_call = 0;
  std::uint64_t most = 0;
  int seed = 0;  // of the most
};

Thrash thrash(const SimulatedArms& arms, int calls, int seeds) {
  Thrash result;
  for (int seed = 0; seed < seeds; ++seed) {
    std::mt19937_64 random(static_cast<std::uint64_t>(seed));
    Learner learner(static_cast<int>(arms.mean_ms.size()), 0, options(seed));
    const std::uint64_t switches = play(learner, arms, calls, random).switches;
    result.per_call += static_cast<double>(switches) / calls / seeds;
    if (switches > result.most) result = {result.per_call, switches, seed};
  }
  return result;
}

// Switches between arms that are equal are all false.
TEST(LearnerDrift, EqualArmsDoNotTakeTurns) {
  for (const std::size_t count : {2u, 3u, 6u}) {
    const Thrash t = thrash({std::vector<double>(count, 1.0)}, 2000, 100);
    fmt::print("{} equal arms, 5 % jitter: {:.3f} % of calls switch, at most {} of 2000\n", count, 100 * t.per_call,
               t.most);
    EXPECT_LT(t.per_call, 0.0025);
    EXPECT_LT(t.most, 20u) << "one percent of the calls, seed " << t.seed;
  }
}

TEST(LearnerDrift, RareLongCallsDoNotMakeItThrash) {
  for (const std::size_t count : {2u, 6u}) {
    const Thrash t = thrash({std::vector<double>(count, 1.0), 0.05, 0.01, 5}, 2000, 100);
    fmt::print("{} equal arms, 5 % jitter, 1 % of calls five times as long: {:.3f} % of calls switch, at most {}\n",
               count, 100 * t.per_call, t.most);
    EXPECT_LT(t.per_call, 0.0025);
    EXPECT_LT(t.most, 20u) << "seed " << t.seed;
  }
}

// Arms ten percent apart: whoever is ahead stays ahead.
TEST(LearnerDrift, TheBestArmIsNotLeftForWorseOnes) {
  const Thrash t = thrash({{1.0, 1.1, 1.1, 1.1}}, 2000, 100);
  EXPECT_LT(t.per_call, 0.0005);
  EXPECT_LE(t.most, 2u) << "seed " << t.seed;
}

// Three percent apart under five percent of noise, the default being the better or the worse.
TEST(LearnerDrift, ArmsThreePercentApartCostAtMostThreePercent) {
  constexpr int kSeeds = 100;
  for (const bool default_is_better : {true, false}) {
    const SimulatedArms arms{default_is_better ? std::vector<double>{1.0, 1.03} : std::vector<double>{1.03, 1.0}};
    double steady = 0, worst = 0;
    int at_best = 0, worst_seed = 0;
    for (int seed = 0; seed < kSeeds; ++seed) {
      std::mt19937_64 random(static_cast<std::uint64_t>(seed));
      Learner learner(2, 0, options(seed));
      play(learner, arms, 2000, random);
      const double cost = play(learner, arms, 1000, random).mean_ms / arms.mean_ms[0];
      steady += cost / kSeeds;
      if (cost > worst) {
        worst = cost;
        worst_seed = seed;
      }
      at_best += learner.current() == arms.best();
    }
    fmt::print(
        "3 % apart, default {}: {:.2f} % of the default's time in steady state, worst seed {:.2f} %, {} of {} "
        "at the better arm\n",
        default_is_better ? "better" : "worse", 100 * steady, 100 * worst, at_best, kSeeds);
    EXPECT_LE(worst, 1.03) << "seed " << worst_seed;
    EXPECT_LE(steady, default_is_better ? 1.01 : 0.99);
    EXPECT_GE(at_best, kSeeds * 3 / 4);
  }
}

// Many candidates of which one is far better than the rules think: it is not left for last.
TEST(LearnerDrift, AnArmThatIsTwiceAsFastIsFoundAmongMany) {
  constexpr int kSeeds = 100;
  std::vector<int> found;
  for (int seed = 0; seed < kSeeds; ++seed) {
    std::mt19937_64 random(static_cast<std::uint64_t>(seed));
    Learner learner(13, 0, options(seed));
    SimulatedArms arms{std::vector<double>(13, 1.1)};
    arms.mean_ms[0] = 1;
    const int best = 1 + seed % 12;
    arms.mean_ms[static_cast<std::size_t>(best)] = 0.5;
    found.push_back(calls_until_current(learner, arms, best, 5000, random));
  }
  const Quantiles q = quantiles(found);
  fmt::print("one of 13 arms twice as fast: current after {} calls (p95 {}, most {})\n", q.p50, q.p95, q.most);
  EXPECT_LE(q.p50, 30);
  EXPECT_LE(q.most, 1000);
}

// From an empty history, with as many candidates as a call has.
TEST(LearnerDrift, AfterTwentyCallsItIsNearTheBestArm) {
  const std::vector<double> cases[] = {{1.0, 1.05}, {1.05, 1.0}, {1.05, 1.0, 1.1}, {1.03, 1.0, 1.1, 1.2, 1.25}};
  constexpr int kSeeds = 400;
  for (const auto& means : cases) {
    const SimulatedArms arms{means};
    const double best = means[static_cast<std::size_t>(arms.best())];
    double sweep = 0, after = 0;
    for (int seed = 0; seed < kSeeds; ++seed) {
      std::mt19937_64 random(static_cast<std::uint64_t>(seed));
      Learner learner(static_cast<int>(means.size()), 0, options(seed));
      sweep += play(learner, arms, 20, random).mean_ms / best / kSeeds;
      after += play(learner, arms, 100, random).mean_ms / best / kSeeds;
    }
    fmt::print(
        "{} arms, default {:.0f} % off: {:.1f} % over the best in the first 20 calls, {:.1f} % in the next 100\n",
        means.size(), 100 * (means[0] / best - 1), 100 * (sweep - 1), 100 * (after - 1));
    EXPECT_LE(after, 1.05) << means.size() << " arms, seeds 0 to " << kSeeds - 1;
    EXPECT_LE(sweep, 1.10);
  }
}

}  // namespace
}  // namespace fairway::select
