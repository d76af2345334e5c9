// Layers of a chain, and who wins a contest of paths.
#include "model/path_contest.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace fairway::model {
namespace {

TEST(ChainLayers, HasAllLayersOfASmallModel) {
  const std::vector<std::string> kinds{"dense", "experts", "experts"};
  EXPECT_EQ(chain_layers(kinds, 8), (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(chain_layers(kinds, 3), (std::vector<int>{0, 1, 2}));
}

TEST(ChainLayers, HasOfEachKindItsShareAndAtLeastOne) {
  std::vector<std::string> kinds{"dense"};
  kinds.resize(47, "experts");
  const std::vector<int> layers = chain_layers(kinds, 8);
  ASSERT_EQ(layers.size(), 9u);
  EXPECT_EQ(layers[0], 0);
  EXPECT_EQ(layers[1], 1);
  for (std::size_t i = 2; i < layers.size(); ++i) EXPECT_NEAR(layers[i] - layers[i - 1], 46.0 / 8, 1) << i;

  std::vector<std::string> different;
  for (int l = 0; l < 20; ++l) different.push_back("kind " + std::to_string(l));
  EXPECT_EQ(chain_layers(different, 8).size(), 20u);
}

std::vector<std::size_t> focused(const std::string& has) {
  std::vector<bool> with;
  for (const char c : has) with.push_back(c == 'x');
  return focused_chain(with);
}

TEST(FocusedChain, IsTheWholeOneForCallsOfHalfOfTheLayers) {
  EXPECT_EQ(focused("x"), (std::vector<std::size_t>{0}));
  EXPECT_EQ(focused(".xxx"), (std::vector<std::size_t>{0, 1, 2, 3}));
  EXPECT_EQ(focused("x.x."), (std::vector<std::size_t>{0, 1, 2, 3}));
}

TEST(FocusedChain, HasTheLayersOfTheCallsAndTwoNeighboursOfEach) {
  EXPECT_EQ(focused("x........"), (std::vector<std::size_t>{0, 1, 2}));
  EXPECT_EQ(focused("........x"), (std::vector<std::size_t>{6, 7, 8}));
  EXPECT_EQ(focused(".......x."), (std::vector<std::size_t>{6, 7, 8}));
  EXPECT_EQ(focused("x.....x.."), (std::vector<std::size_t>{0, 1, 2, 6, 7, 8}));
  EXPECT_EQ(focused("x.x......"), (std::vector<std::size_t>{0, 1, 2, 3, 4}));
}

TEST(FocusedChain, EndsWithTheHead) {
  EXPECT_EQ(focused("........."), (std::vector<std::size_t>{7, 8}));
  EXPECT_EQ(focused("."), (std::vector<std::size_t>{0}));
  EXPECT_EQ(focused(""), (std::vector<std::size_t>{}));
}

// Times of a chain: 1000 us without the calls, and 10 calls of so many each; a round is slower than another by up to a
// fifth, and a sample differs by a thousandth.
class Contest {
 public:
  explicit Contest(const std::vector<double>& call_us, int rounds = 9, unsigned seed = 1) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<double> level(1, 1.2), noise(0.999, 1.001);
    samples_.resize(call_us.size());
    for (int r = 0; r < rounds; ++r) {
      const double round = level(random);
      for (std::size_t i = 0; i < call_us.size(); ++i) {
        samples_[i].push_back(round * noise(random) * (1000 + 10 * call_us[i]));
      }
      without_.push_back(round * noise(random) * 1000);
    }
  }
  std::vector<std::vector<double>>& samples() { return samples_; }
  PathVerdict verdict() const { return judge_paths(samples_, without_, 10); }

 private:
  std::vector<std::vector<double>> samples_;
  std::vector<double> without_;
};

TEST(JudgePaths, TheFasterOneWinsThoughRoundsDiffer) {
  const PathVerdict verdict = Contest({20, 25, 16, 18}).verdict();
  EXPECT_EQ(verdict.winner, 2u);
  EXPECT_EQ(verdict.reason, PathReason::kBeaten);
  ASSERT_EQ(verdict.call_us.size(), 4u);
  // The level of a round stretches all times alike.
  EXPECT_NEAR(verdict.call_us[2] / verdict.call_us[0], 0.8, 0.02);
  EXPECT_GE(verdict.call_us[0], 19);
  EXPECT_LE(verdict.call_us[0], 25);
}

TEST(JudgePaths, TheDefaultStaysIfItIsTheFastest) {
  const PathVerdict verdict = Contest({20, 25, 24}).verdict();
  EXPECT_EQ(verdict.winner, 0u);
  EXPECT_EQ(verdict.reason, PathReason::kFastest);
  EXPECT_FALSE(verdict.seems_faster);
}

// Five in a hundred of the calls, half a thousandth of the chain, with twice as much noise in every sample.
TEST(JudgePaths, MoreRoundsTellWhatFewDoNot) {
  int few = 0, seems = 0, many = 0;
  for (unsigned seed = 0; seed < 50; ++seed) {
    const PathVerdict first = Contest({1, 0.95}, 7, seed).verdict();
    few += first.winner == 1;
    seems += first.seems_faster;
    many += Contest({1, 0.95}, 28, seed).verdict().winner == 1;
  }
  EXPECT_GE(seems, 10);
  EXPECT_GE(many, few + 10);
}

TEST(JudgePaths, EqualPathsDoNotReplaceTheDefault) {
  int replaced = 0;
  for (unsigned seed = 0; seed < 200; ++seed) {
    replaced += Contest({20, 20, 20, 20, 20}, 9, seed).verdict().winner != 0;
  }
  EXPECT_LE(replaced, 10);
}

TEST(PathSpread, IsThatOfTheMiddleHalf) {
  EXPECT_EQ(path_spread({1, 2, 3}), 0);
  EXPECT_DOUBLE_EQ(path_spread({100, 1, 10, 11, 12, 10, 11, 10}), 11.0 / 10 - 1);
  EXPECT_LT(path_spread({10, 10.01, 10.02, 10, 30, 10, 10.01}), kQuietSpread);
}

TEST(JudgePaths, FewRoundsProveNothing) {
  const PathVerdict verdict = Contest({20, 10}, 2).verdict();
  EXPECT_EQ(verdict.winner, 0u);
  EXPECT_EQ(verdict.reason, PathReason::kTie);
}

TEST(JudgePaths, WhoLeftEarlyCannotWin) {
  Contest contest({20, 10, 15});
  contest.samples()[1].resize(3);
  const PathVerdict verdict = contest.verdict();
  EXPECT_EQ(verdict.winner, 2u);
  EXPECT_EQ(verdict.call_us.size(), 3u);
}

}  // namespace
}  // namespace fairway::model
