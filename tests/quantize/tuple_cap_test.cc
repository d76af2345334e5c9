// The cap on distinct (gate, up, down) widths in a layer: kept, and close to what exhaustive search finds.
#include "quantize/tuple_cap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <map>
#include <set>

#include "fairway/error.h"
#include "quantize/allocate.h"
#include "quantize/random_sensitivity.h"

namespace fairway::test {
namespace {

using quantize::allocate;
using quantize::AllocationOptions;
using quantize::BitPlan;

// Most distinct tuples that the routed experts of any layer have.
std::size_t most_tuples(const ModelSensitivity& model, const BitPlan& plan) {
  std::map<int, std::map<int, std::vector<int>>> tuples;  // layer -> expert -> widths in file order
  for (std::size_t i = 0; i < model.linears.size(); ++i) {
    const LinearSensitivity& linear = model.linears[i];
    if (linear.role == LinearRole::kExpert) tuples[linear.layer][linear.expert].push_back(plan.linears[i].bits);
  }
  std::size_t most = 0;
  for (const auto& [layer, experts] : tuples) {
    std::set<std::vector<int>> distinct;
    for (const auto& [number, tuple] : experts) distinct.insert(tuple);
    most = std::max(most, distinct.size());
  }
  return most;
}

using Table = std::map<std::int64_t, double>;  // cost in blocks * bits -> least loss

void keep_least(Table& table, std::int64_t cost, double loss) {
  const auto [at, added] = table.try_emplace(cost, loss);
  if (!added) at->second = std::min(at->second, loss);
}

// Every assignment of at most `cap` of the 27 tuples of 1..3 bits to the experts of a layer.
class LayerSearch {
 public:
  LayerSearch(const ModelSensitivity& model, int layer, int cap) : cap_(cap) {
    for (const LinearSensitivity& linear : model.linears) {
      if (linear.role == LinearRole::kExpert && linear.layer == layer) matrices_.push_back(&linear);
    }
    search(0, 0, 0, 0);
  }
  Table table;

 private:
  void search(std::size_t next, std::int64_t cost, double loss, std::uint32_t used) {
    if (next == matrices_.size()) return keep_least(table, cost, loss);
    for (int tuple = 0; tuple < 27; ++tuple) {
      const std::uint32_t now = used | std::uint32_t{1} << tuple;
      if (std::popcount(now) > cap_) continue;
      std::int64_t c = cost;
      double l = loss;
      for (std::size_t p = 0; p < 3; ++p) {
        const int bits = 1 + (p == 0 ? tuple / 9 : p == 1 ? tuple / 3 % 3 : tuple % 3);
        c += bits * matrices_[next + p]->weights / kBlockWeights;
        l += matrices_[next + p]->loss[static_cast<std::size_t>(bits)];
      }
      search(next + 3, c, l, now);
    }
  }

  std::vector<const LinearSensitivity*> matrices_;
  int cap_;
};

double exhaustive(const ModelSensitivity& model, int layers, int cap, std::int64_t budget) {
  Table sum = {{0, 0.0}};
  for (int layer = 0; layer < layers; ++layer) {
    const LayerSearch search(model, layer, cap);
    Table next;
    for (const auto& [cost, loss] : sum) {
      for (const auto& [c, l] : search.table) keep_least(next, cost + c, loss + l);
    }
    sum.swap(next);
  }
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [cost, loss] : sum) {
    if (cost <= budget) least = std::min(least, loss);
  }
  return least;
}

// Two layers of four experts: so few that each bit of the budget weighs percents, the hard case for a search that
// follows one price. It found 1.003 times the least loss on average over these cases and 1.036 times at worst.
TEST(TupleCap, CloseToExhaustiveSearch) {
  double sum = 0, worst = 1;
  int cases = 0;
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    const ModelShape shape{.layers = 2, .experts = 4, .shared = false, .attention = false, .head = false};
    const ModelSensitivity model = random_sensitivity(shape, seed);
    for (const int cap : {1, 2}) {
      for (const double bits : {1.5, 2.0, 2.5}) {
        AllocationOptions options{.bits = bits, .max_tuples = cap};
        options.ranges = {{LinearRole::kExpert, {1, 3}}};
        const BitPlan plan = allocate(model, options);
        ASSERT_LE(most_tuples(model, plan), static_cast<std::size_t>(cap)) << "seed " << seed;
        ASSERT_LE(plan.budget.mean_bits, bits);
        const double least = exhaustive(model, 2, cap, static_cast<std::int64_t>(24 * bits));
        const double ratio = plan.budget.predicted_loss / least;
        ASSERT_GE(ratio, 1 - 1e-12) << "seed " << seed << ": the search or the budget is wrong";
        worst = std::max(worst, ratio);
        sum += ratio;
        ++cases;
      }
    }
  }
  EXPECT_LE(sum / cases, 1.005);
  EXPECT_LE(worst, 1.05);
}

TEST(TupleCap, FewerTuplesNeverHelp) {
  const ModelSensitivity model = random_sensitivity({.layers = 3, .experts = 16}, 21);
  double before = 0;
  for (const int cap : {0, 16, 8, 4, 2, 1}) {
    const BitPlan plan = allocate(model, {.bits = 2.5, .max_tuples = cap});
    EXPECT_LE(most_tuples(model, plan), static_cast<std::size_t>(cap > 0 ? cap : 16));
    EXPECT_GE(plan.budget.predicted_loss, plan.budget.uncapped_loss);
    EXPECT_GE(plan.budget.predicted_loss, before * (1 - 1e-9)) << "cap " << cap;
    EXPECT_LE(plan.budget.mean_bits, 2.5);
    before = plan.budget.predicted_loss;
  }
}

TEST(TupleCap, SameInputSamePlan) {
  const ModelSensitivity model = random_sensitivity({.layers = 3, .experts = 16}, 22);
  EXPECT_EQ(allocate(model, {.bits = 2.25}), allocate(model, {.bits = 2.25}));
}

TEST(TupleCap, LeastAndMostBudget) {
  const ModelSensitivity model = random_sensitivity({.layers = 2, .experts = 5}, 23);
  for (const quantize::PlannedLinear& linear : allocate(model, {.bits = 1, .head_bits = 1, .max_tuples = 1}).linears) {
    EXPECT_EQ(linear.bits, 1) << linear.prefix;
  }
  for (const quantize::PlannedLinear& linear : allocate(model, {.bits = 8, .head_bits = 8, .max_tuples = 1}).linears) {
    EXPECT_EQ(linear.bits, 8) << linear.prefix;
  }
}

// 47 layers of 64 experts, the size the allocation is made for.
TEST(TupleCap, NineThousandMatrices) {
  const ModelShape shape{.layers = 47,
                         .dense_layers = 1,
                         .experts = 64,
                         .expert_blocks = 192,
                         .down_blocks = 192,
                         .attention_blocks = 320};
  const ModelSensitivity model = random_sensitivity(shape, 31);
  const BitPlan free = allocate(model, {.bits = 2.5, .max_tuples = 0});
  EXPECT_LE(free.budget.predicted_loss - free.budget.loss_bound, 1e-5 * free.budget.predicted_loss);
  const BitPlan capped = allocate(model, {.bits = 2.5, .max_tuples = 4});
  EXPECT_LE(most_tuples(model, capped), 4u);
  EXPECT_LE(capped.budget.mean_bits, 2.5);
  EXPECT_GE(capped.budget.mean_bits, 2.5 - 1e-4);
  // Losses of these experts are independent over four decades, so that four tuples cost much; far less than one does.
  const BitPlan single = allocate(model, {.bits = 2.5, .max_tuples = 1});
  EXPECT_LE(capped.budget.predicted_loss, 0.6 * single.budget.predicted_loss);
}

}  // namespace
}  // namespace fairway::test
