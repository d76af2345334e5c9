// The learner's mechanics: who may be chosen, what is kept, what is refused, and eight threads at once.
#include "select/learner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "select/expect_error.h"
#include "select/simulated_arms.h"

namespace fairway::select {
namespace {

using test::play;
using test::SimulatedArms;
using test::usage_error;
using testing::ElementsAre;
using testing::HasSubstr;

void record(Learner& learner, int arm, double milliseconds, int times) {
  for (int i = 0; i < times; ++i) learner.record(arm, milliseconds * (1 + 0.001 * (i % 3)));
}

TEST(LatencyHistory, KeepsTheLatestInOrder) {
  LatencyHistory history(4);
  for (const double time : {1.0, 2.0, 3.0}) history.add(time);
  EXPECT_THAT(history.samples(), ElementsAre(1, 2, 3));
  for (const double time : {4.0, 5.0, 6.0}) history.add(time);
  EXPECT_THAT(history.samples(), ElementsAre(3, 4, 5, 6));
  EXPECT_EQ(history.at(0), 3);
  EXPECT_DOUBLE_EQ(history.mean(1, 4), 5);
  EXPECT_DOUBLE_EQ(history.variance(0, 4), 5.0 / 3);
  EXPECT_EQ(history.variance(2, 3), 0);
  history.keep_latest(9);
  EXPECT_EQ(history.size(), 4);
  history.keep_latest(2);
  EXPECT_THAT(history.samples(), ElementsAre(5, 6));
  for (const double time : {7.0, 8.0, 9.0}) history.add(time);
  EXPECT_THAT(history.samples(), ElementsAre(6, 7, 8, 9));
  history.clear();
  EXPECT_EQ(history.size(), 0);
}

TEST(Learner, ALoneOrFreshLearnerTakesThePreferredArm) {
  Learner lone(1, 0, {});
  for (int i = 0; i < 1000; ++i) {
    const auto pick = lone.choose();
    EXPECT_EQ(pick.arm, 0);
    EXPECT_FALSE(pick.explored);
  }
  LearnerOptions never;
  never.exploration = never.least_exploration = 0;
  Learner fresh(5, 3, never);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(fresh.choose().arm, 3);
  EXPECT_EQ(fresh.fastest(), 3);
}

TEST(Learner, AnArmThatIsFasterBeyondDoubtBecomesCurrent) {
  Learner learner(3, 0, {});
  record(learner, 0, 2.0, 10);
  record(learner, 1, 1.5, 4);
  EXPECT_EQ(learner.current(), 0);  // four times are no evidence
  record(learner, 1, 1.5, 1);
  EXPECT_EQ(learner.current(), 1);
  record(learner, 2, 1.49, 20);
  EXPECT_EQ(learner.current(), 1);  // nor is a gain below two percent
  record(learner, 2, 1.0, 40);
  EXPECT_EQ(learner.current(), 2);
  EXPECT_EQ(learner.fastest(), 2);
  EXPECT_EQ(learner.switches(), 2u);
  EXPECT_EQ(learner.records(), 75u);
}

// Once the latest times leave the interval of the earlier ones, none of the earlier ones is kept.
TEST(Learner, AChangedArmForgetsAllThatItWas) {
  for (const double now : {0.25, 3.0}) {
    Learner learner(2, 0, {});
    record(learner, 1, 1.0, 30);
    record(learner, 1, now, 8);
    const std::vector<double> kept = learner.samples(1);
    EXPECT_GE(kept.size(), 4u);
    for (const double time : kept) EXPECT_NEAR(time, now, 0.01) << "changed to " << now;
  }
}

TEST(Learner, OnlyLegalArmsAreChosen) {
  LearnerOptions options;
  options.exploration = 0.5;
  options.sweep_calls = 50;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    options.seed = seed;
    constexpr int kArms = 7;
    Learner learner(kArms, static_cast<int>(seed % kArms), options);
    const SimulatedArms arms{{1.0, 1.1, 0.9, 1.3, 0.7, 1.0, 2.0}, 0.1};
    for (int call = 0; call < 2000; ++call) {
      const std::uint32_t legal = 1 + static_cast<std::uint32_t>(random() % ((1u << kArms) - 1));
      const auto pick = learner.choose(legal);
      ASSERT_GE(pick.arm, 0);
      ASSERT_LT(pick.arm, kArms);
      ASSERT_NE(legal >> pick.arm & 1, 0u) << "call " << call << " mask " << legal;
      learner.record(pick.arm, arms.time(pick.arm, random));
    }
  }
}

// Whatever arm the learner is curious about, callers that may not take it go on exploring among those that they may.
TEST(Learner, AnIllegalArmDoesNotEndExploration) {
  LearnerOptions options;
  options.exploration = options.least_exploration = 0.2;
  Learner learner(4, 0, options);
  const std::uint32_t legal = 0b0111;  // arm 3 is new and stays so
  for (int arm = 0; arm < 3; ++arm) record(learner, arm, 1.0, 20);
  record(learner, 3, 1.0, 1);
  record(learner, 0, 2.0, 20);  // arm 0 loses its place, and its probes may be due
  std::mt19937_64 random(3);
  const SimulatedArms arms{{1.0, 1.0, 1.0, 1.0}};
  for (const std::uint32_t mask : {legal, 0b0110u, 0b1110u}) {
    int explored = 0;
    for (int call = 0; call < 4000; ++call) {
      const auto pick = learner.choose(mask);
      explored += pick.explored;
      learner.record(pick.arm, arms.time(pick.arm, random));
    }
    EXPECT_GT(explored, 4000 * 0.15) << "mask " << mask;
    EXPECT_LT(explored, 4000 * 0.30) << "mask " << mask;
  }
}

TEST(Learner, WithoutExplorationTheSameTimesGiveTheSameChoices) {
  LearnerOptions options;
  options.exploration = options.least_exploration = 0;
  const auto choices = [&](std::uint64_t learner_seed) {
    options.seed = learner_seed;
    Learner learner(3, 0, options);
    std::mt19937_64 random(11);
    const SimulatedArms arms{{1.0, 0.8, 1.2}};
    std::vector<int> chosen;
    for (int call = 0; call < 500; ++call) {
      chosen.push_back(learner.choose().arm);
      learner.record(call % 3, arms.time(call % 3, random));  // times of every arm, whatever was chosen
    }
    return chosen;
  };
  const std::vector<int> first = choices(1);
  EXPECT_EQ(first, choices(1));
  EXPECT_EQ(first, choices(2));
  EXPECT_EQ(first.front(), 0);
  EXPECT_EQ(first.back(), 1);
}

TEST(Learner, TheSweepAlternatesWithArmsThatWereNotTimed) {
  LearnerOptions options;
  options.exploration = options.least_exploration = 0;
  options.sweep_calls = 20;
  Learner learner(3, 1, options);
  const SimulatedArms arms{{1.0, 1.0, 1.0}};
  std::mt19937_64 random(5);
  int explored = 0, count[3] = {};
  for (int call = 0; call < 20; ++call) {
    const auto pick = learner.choose();
    explored += pick.explored;
    ++count[pick.arm];
    learner.record(pick.arm, arms.time(pick.arm, random));
  }
  EXPECT_EQ(explored, 10);
  EXPECT_EQ(count[0], 5);
  EXPECT_EQ(count[2], 5);
  EXPECT_EQ(play(learner, arms, 100, random).explored, 0);
  record(learner, 1, 3.0, 10);  // it loses its place, and is not probed either
  ASSERT_NE(learner.current(), 1);
  EXPECT_EQ(play(learner, arms, 100, random).explored, 0);
}

TEST(Learner, ExplorationDecaysToItsLeastWhileTimesAgree) {
  LearnerOptions options;
  options.exploration = 0.4;
  options.least_exploration = 0.02;
  Learner learner(2, 0, options);
  EXPECT_NEAR(learner.exploration_rate(), 0.4, 1e-9);
  learner.adapt_exploration_rate(0);
  EXPECT_NEAR(learner.exploration_rate(), 0.4, 1e-9);
  learner.adapt_exploration_rate(1);
  EXPECT_NEAR(learner.exploration_rate(), 0.2, 1e-9);
  record(learner, 0, 1.0, 500);
  EXPECT_NEAR(learner.exploration_rate(), 0.02, 1e-9);
  for (const double bad : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THAT(usage_error([&] { learner.adapt_exploration_rate(bad); }), HasSubstr("stability"));
  }
}

TEST(Learner, ResetIsABeginning) {
  LearnerOptions options;
  options.sweep_calls = 10;
  const SimulatedArms arms{{1.0, 0.5, 2.0}};
  Learner learner(3, 0, options);
  const auto choices = [&] {
    std::mt19937_64 random(9);
    std::vector<int> chosen;
    for (int call = 0; call < 300; ++call) {
      chosen.push_back(learner.choose().arm);
      learner.record(chosen.back(), arms.time(chosen.back(), random));
    }
    return chosen;
  };
  const std::vector<int> first = choices();
  EXPECT_EQ(learner.current(), 1);
  learner.reset();
  EXPECT_EQ(learner.current(), 0);
  EXPECT_EQ(learner.records(), 0u);
  EXPECT_EQ(learner.switches(), 0u);
  EXPECT_TRUE(learner.samples(1).empty());
  EXPECT_NEAR(learner.exploration_rate(), 0.05, 1e-9);
  EXPECT_EQ(choices(), first);
}

TEST(Learner, TimesThatAreNoneAreIgnored) {
  Learner learner(2, 0, {});
  for (const double time : {0.0, -1.0, std::numeric_limits<double>::infinity(), std::nan("")}) learner.record(0, time);
  EXPECT_EQ(learner.records(), 0u);
  EXPECT_TRUE(learner.samples(0).empty());
}

TEST(Learner, WhatCannotBeIsAnError) {
  const auto with = [](auto change) {
    LearnerOptions options;
    change(options);
    usage_error([&] { Learner(2, 0, options); });
  };
  with([](LearnerOptions& o) { o.history = 9; });
  with([](LearnerOptions& o) { o.history = 10001; });
  with([](LearnerOptions& o) { o.exploration = 1.1; });
  with([](LearnerOptions& o) { o.exploration = std::nan(""); });
  with([](LearnerOptions& o) { o.least_exploration = 0.06; });
  with([](LearnerOptions& o) { o.confidence = 1; });
  with([](LearnerOptions& o) { o.sweep_calls = -1; });
  usage_error([] { Learner(0, 0, {}); });
  usage_error([] { Learner(33, 0, {}); });
  usage_error([] { Learner(2, 2, {}); });
  usage_error([] { Learner(2, -1, {}); });
  Learner full(31, 0, {});
  EXPECT_EQ(full.add_arm(), 31);
  EXPECT_THAT(usage_error([&] { full.add_arm(); }), HasSubstr("32"));
  EXPECT_THAT(usage_error([&] { full.record(32, 1.0); }), HasSubstr("32"));
  usage_error([&] { full.record(-1, 1.0); });
}

TEST(Learner, EightThreadsMayChooseAndRecordAtOnce) {
  constexpr int kThreads = 8, kCalls = 4000;
  LearnerOptions options;
  options.sweep_calls = 100;
  options.exploration = 0.2;
  Learner learner(4, 0, options);
  const SimulatedArms arms{{1.0, 0.8, 1.2, 1.1}};
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(static_cast<std::uint64_t>(t));
      for (int call = 0; call < kCalls; ++call) {
        const auto pick = learner.choose(t % 2 == 0 ? ~0u : 0b1011u);
        if (pick.arm < 0 || pick.arm > 3 || (t % 2 == 1 && pick.arm == 2)) std::abort();
        learner.record(pick.arm, arms.time(pick.arm, random));
        if (call % 500 == 0) learner.adapt_exploration_rate(0.1);
        if (call % 100 == 0 && learner.samples(pick.arm).size() > 100) std::abort();
        if (call % 100 == 0 && (learner.fastest() < 0 || learner.exploration_rate() <= 0)) std::abort();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(learner.records(), static_cast<std::uint64_t>(kThreads) * kCalls);
  EXPECT_EQ(learner.current(), 1);
}

}  // namespace
}  // namespace fairway::select
