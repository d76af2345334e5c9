// Verdicts over simulated times.
#include "select/verdict.h"

#include <gtest/gtest.h>

#include <random>

namespace fairway::select {
namespace {

using Samples = std::vector<std::vector<double>>;

// Times of candidates with these true means: noise of `noise` per sample, and now and then a stall of ten calls'
// length.
Samples simulate(const std::vector<double>& means, int rounds, double noise, double stalls, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::bernoulli_distribution stall(stalls);
  Samples samples(means.size());
  for (int r = 0; r < rounds; ++r) {
    for (std::size_t i = 0; i < means.size(); ++i) {
      samples[i].push_back(means[i] * (1 + noise * normal(random)) + (stall(random) ? 10 : 0));
    }
  }
  return samples;
}

std::size_t verdict(const Samples& samples) {
  return fastest_beyond_doubt(samples, std::vector<bool>(samples.size(), true));
}

TEST(Verdict, MedianOfOddEvenAndNone) {
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 2, 3}), 2.5);
  EXPECT_EQ(median({}), 0);
}

TEST(Verdict, LevellingTakesOutWhatARoundHasInCommon) {
  // The second round took twice as long for all; the third candidate left after it.
  const auto levelled = level_rounds(Samples{{1, 2, 1}, {3, 6, 3}, {2, 4}});
  EXPECT_EQ(levelled[0], (std::vector<double>{1, 1, 1}));
  EXPECT_EQ(levelled[1], (std::vector<double>{3, 3, 3}));
  EXPECT_EQ(levelled[2], (std::vector<double>{2, 2}));
}

// 13 candidates of the same speed, 10 % stalls: the default must stay in 95 of 100 contests. 400 contests, three
// standard deviations are 0.033.
TEST(Verdict, ChanceBeatsTheDefaultInOneOfTwentyContestsAtMost) {
  for (const int rounds : {3, 5, 8, 15}) {
    int wrong = 0;
    for (std::uint64_t seed = 1; seed <= 400; ++seed) {
      wrong += verdict(simulate(std::vector<double>(13, 1.0), rounds, 0.05, 0.1, seed)) != 0;
    }
    EXPECT_LE(wrong / 400.0, 0.05 + 0.033) << rounds << " rounds";
  }
}

TEST(Verdict, AFasterCandidateWinsInSpiteOfStalls) {
  std::vector<double> means(13, 1.0);
  means[7] = 0.9;
  int right = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) right += verdict(simulate(means, 15, 0.03, 0.03, seed)) == 7;
  EXPECT_GE(right, 160);
}

TEST(Verdict, ThreeRoundsAndOnePerCentAreTheLeast) {
  EXPECT_EQ(verdict({{1, 1}, {0.5, 0.5}}), 0u);
  EXPECT_EQ(verdict({{1, 1, 1}, {0.5, 0.5, 0.5}}), 1u);
  EXPECT_EQ(verdict({{1, 1, 1}, {0.995, 0.995, 0.995}}), 0u);
}

TEST(Verdict, CandidatesThatAreOutDoNotWin) {
  const Samples samples{{1, 1, 1, 1}, {0.5, 0.5, 0.5}, {0.7, 0.7, 0.7, 0.7}};
  EXPECT_EQ(fastest_beyond_doubt(samples, {true, false, true}), 2u);
  EXPECT_EQ(fastest_beyond_doubt(samples, {true, false, false}), 0u);
}

}  // namespace
}  // namespace fairway::select
