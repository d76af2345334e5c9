// Choices under a budget, against tables of every reachable cost.
#include "quantize/knapsack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <random>

#include "fairway/error.h"

namespace fairway::test {
namespace {

using quantize::Choice;
using quantize::Item;
using quantize::Selection;
using quantize::solve_knapsack;

// Least loss by exact cost, every selection counted.
std::map<std::int64_t, double> all_costs(const std::vector<Item>& items) {
  std::map<std::int64_t, double> table = {{0, 0.0}};
  for (const Item& item : items) {
    std::map<std::int64_t, double> next;
    for (const auto& [cost, loss] : table) {
      for (const Choice& c : item) {
        const auto [at, added] = next.try_emplace(cost + c.cost, loss + c.loss);
        if (!added) at->second = std::min(at->second, loss + c.loss);
      }
    }
    table.swap(next);
  }
  return table;
}

void expect_consistent(const std::vector<Item>& items, const Selection& s, std::int64_t budget) {
  ASSERT_EQ(s.chosen.size(), items.size());
  std::int64_t cost = 0;
  double loss = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const Choice& c = items[i].at(static_cast<std::size_t>(s.chosen[i]));
    cost += c.cost;
    loss += c.loss;
  }
  EXPECT_EQ(s.cost, cost);
  EXPECT_EQ(s.loss, loss);
  EXPECT_LE(s.cost, budget);
}

std::vector<Item> random_items(std::mt19937_64& random, int count) {
  std::uniform_int_distribution<int> choices(1, 5), cost(0, 30);
  std::uniform_real_distribution<double> loss(0, 1);
  std::vector<Item> items;
  for (int i = 0; i < count; ++i) {
    Item item(static_cast<std::size_t>(choices(random)));
    for (Choice& c : item) c = {cost(random), loss(random)};
    items.push_back(item);
  }
  return items;
}

TEST(Knapsack, SmallProblemsAreSolvedExactly) {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const std::vector<Item> items = random_items(random, 1 + static_cast<int>(seed % 9));
    const auto table = all_costs(items);
    double least = std::numeric_limits<double>::infinity();
    for (std::int64_t budget = table.begin()->first; budget <= table.rbegin()->first + 3; ++budget) {
      if (const auto at = table.find(budget); at != table.end()) least = std::min(least, at->second);
      const Selection s = solve_knapsack(items, budget);
      expect_consistent(items, s, budget);
      ASSERT_NEAR(s.loss, least, 1e-12) << "budget " << budget;
      ASSERT_LE(s.bound, least + 1e-12) << "budget " << budget;
    }
  }
}

// Greedy steps take the first item and lose 1.6: the pair that uses the whole budget has to replace it.
TEST(Knapsack, RestOfTheBudgetIsSpentByExchange) {
  const std::vector<Item> items = {{{0, 1.0}, {6, 0.0}}, {{0, 0.8}, {5, 0.0}}, {{0, 0.8}, {5, 0.0}}};
  const Selection s = solve_knapsack(items, 10);
  EXPECT_EQ(s.chosen, (std::vector<int>{0, 1, 1}));
  EXPECT_LT(s.bound, 1.0);
}

TEST(Knapsack, TiesGoToTheEarlierItem) {
  const std::vector<Item> items(4, {{1, 1.0}, {2, 0.5}});
  EXPECT_EQ(solve_knapsack(items, 6).chosen, (std::vector<int>{1, 1, 0, 0}));
}

TEST(Knapsack, NothingToChooseAndNothingToSpend) {
  EXPECT_TRUE(solve_knapsack({}, 0).chosen.empty());
  const std::vector<Item> items = {{{3, 1.0}}, {{4, 1.0}, {5, 0.5}}};
  EXPECT_EQ(solve_knapsack(items, 7).chosen, (std::vector<int>{0, 0}));
  const Selection all = solve_knapsack(items, 1000);
  EXPECT_EQ(all.chosen, (std::vector<int>{0, 1}));
  EXPECT_EQ(all.bound, all.loss);
  EXPECT_EQ(all.multiplier, 0);
  EXPECT_THROW(solve_knapsack(items, 6), Error);
}

TEST(Knapsack, LargeProblemsComeNearTheBound) {
  std::mt19937_64 random(7);
  const std::vector<Item> items = random_items(random, 5000);
  std::int64_t budget = 0;
  for (const Item& item : items) budget += item.back().cost;
  const Selection s = solve_knapsack(items, budget);
  expect_consistent(items, s, budget);
  EXPECT_LE(s.loss - s.bound, 1e-5 * s.loss);
}

}  // namespace
}  // namespace fairway::test
