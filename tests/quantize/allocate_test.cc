// Allocations: least loss within the budget against exhaustive tables, ranges, and the head.
#include "quantize/allocate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>

#include "fairway/error.h"
#include "quantize/random_sensitivity.h"
#include "select/expect_error.h"

namespace fairway::test {
namespace {

using quantize::allocate;
using quantize::AllocationMethod;
using quantize::AllocationOptions;
using quantize::BitPlan;
using testing::HasSubstr;

const LinearSensitivity& planned(const ModelSensitivity& model, const BitPlan& plan, std::size_t i) {
  EXPECT_EQ(plan.linears.at(i).prefix, model.linears[i].prefix);
  return model.linears[i];
}

// The facts of a plan, counted anew.
void expect_facts(const ModelSensitivity& model, const BitPlan& plan, bool head_in_budget) {
  ASSERT_EQ(plan.linears.size(), model.linears.size());
  std::int64_t bytes = model.fixed_bytes, bits = 0, weights = 0;
  double loss = 0;
  for (std::size_t i = 0; i < model.linears.size(); ++i) {
    const LinearSensitivity& linear = planned(model, plan, i);
    const int width = plan.linears[i].bits;
    ASSERT_TRUE(width >= 1 && width <= 8) << linear.prefix << " has " << width;
    bytes += linear.side_bytes + linear.weights * width / 8;
    loss += linear.loss[static_cast<std::size_t>(width)];
    if (linear.role == LinearRole::kHead && !head_in_budget) continue;
    bits += linear.weights * width;
    weights += linear.weights;
  }
  EXPECT_EQ(plan.budget.total_bytes, bytes);
  EXPECT_NEAR(plan.budget.predicted_loss, loss, 1e-12 * loss);
  EXPECT_NEAR(plan.budget.mean_bits, static_cast<double>(bits) / static_cast<double>(weights), 1e-12);
}

// Least loss within `blocks` * width, all assignments counted; the head is not among them.
double least_loss(const ModelSensitivity& model, std::int64_t budget) {
  std::map<std::int64_t, double> table = {{0, 0.0}};
  for (const LinearSensitivity& linear : model.linears) {
    if (linear.role == LinearRole::kHead) continue;
    std::map<std::int64_t, double> next;
    for (const auto& [cost, loss] : table) {
      for (std::size_t k = 1; k <= 8; ++k) {
        const double sum = loss + linear.loss[k];
        const auto [at, added] =
            next.try_emplace(cost + static_cast<std::int64_t>(k) * linear.weights / kBlockWeights, sum);
        if (!added) at->second = std::min(at->second, sum);
      }
    }
    table.swap(next);
  }
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [cost, loss] : table) {
    if (cost <= budget) least = std::min(least, loss);
  }
  return least;
}

std::int64_t budgeted_blocks(const ModelSensitivity& model) {
  std::int64_t blocks = 0;
  for (const LinearSensitivity& linear : model.linears) {
    if (linear.role != LinearRole::kHead) blocks += linear.weights / kBlockWeights;
  }
  return blocks;
}

TEST(Allocate, OptimalIsTheLeastLossThatAnyAssignmentHas) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const ModelShape shape{
        .layers = 2, .dense_layers = 1, .experts = 2, .expert_blocks = 2, .down_blocks = 3, .attention_blocks = 5};
    const ModelSensitivity model = random_sensitivity(shape, seed);
    const double head_loss = model.linears.back().loss[6];
    for (const double bits : {1.0, 1.07, 1.5, 2.25, 3.0, 4.6, 7.9, 8.0}) {
      const BitPlan plan = allocate(model, {.bits = bits, .max_tuples = 0});
      expect_facts(model, plan, false);
      ASSERT_LE(plan.budget.mean_bits, bits);
      const double blocks = bits * static_cast<double>(budgeted_blocks(model));
      const double least = head_loss + least_loss(model, static_cast<std::int64_t>(blocks));
      ASSERT_NEAR(plan.budget.predicted_loss, least, 1e-12) << bits;
      ASSERT_LE(plan.budget.loss_bound, least + 1e-12) << bits;
      ASSERT_EQ(plan.budget.uncapped_loss, plan.budget.predicted_loss);
    }
  }
}

TEST(Allocate, MoreBudgetNeverLosesMore) {
  const ModelSensitivity model = random_sensitivity({.layers = 3, .experts = 8, .attention_blocks = 7}, 5);
  double before = std::numeric_limits<double>::infinity();
  for (int hundredths = 100; hundredths <= 800; hundredths += 3) {
    const BitPlan plan = allocate(model, {.bits = hundredths / 100.0, .max_tuples = 0});
    ASSERT_LE(plan.budget.predicted_loss, before) << hundredths;
    before = plan.budget.predicted_loss;
  }
}

TEST(Allocate, TotalBytesCountEverything) {
  const ModelSensitivity model = random_sensitivity({}, 11);
  const BitPlan by_bits = allocate(model, {.bits = 2.5, .head_bits = 4});
  AllocationOptions options{.total_bytes = by_bits.budget.total_bytes, .head_bits = 4};
  const BitPlan by_bytes = allocate(model, options);
  expect_facts(model, by_bytes, false);
  EXPECT_EQ(by_bytes.linears, by_bits.linears);
  EXPECT_EQ(by_bytes.linears.back().bits, 4);
  options.head_bits = 0;  // at 4 bits for the head this is one of the allowed assignments
  const BitPlan with_head = allocate(model, options);
  expect_facts(model, with_head, true);
  EXPECT_LE(with_head.budget.total_bytes, options.total_bytes);
  EXPECT_LE(with_head.budget.loss_bound, by_bytes.budget.predicted_loss);
}

TEST(Allocate, RangesAreKept) {
  const ModelSensitivity model = random_sensitivity({.layers = 3, .dense_layers = 1}, 3);
  AllocationOptions options{.bits = 3.9};
  options.ranges = {
      {LinearRole::kAttention, {5, 5}}, {LinearRole::kExpert, {2, 3}}, {LinearRole::kSharedExpert, {4, 8}}};
  const BitPlan plan = allocate(model, options);
  expect_facts(model, plan, false);
  for (std::size_t i = 0; i < model.linears.size(); ++i) {
    const auto found = options.ranges.find(model.linears[i].role);
    if (found == options.ranges.end()) continue;
    EXPECT_GE(plan.linears[i].bits, found->second.low) << plan.linears[i].prefix;
    EXPECT_LE(plan.linears[i].bits, found->second.high) << plan.linears[i].prefix;
  }
}

TEST(Allocate, TooSmallABudgetSaysWhatIsPossible) {
  // 5 experts' blocks * 12 matrices at 2 bits and 1 block each, 4 attention matrices of 3 blocks at 4 bits: 72 / 24.
  const ModelSensitivity model = random_sensitivity({.layers = 1, .experts = 3, .shared = true}, 3);
  AllocationOptions options{.bits = 2.9};
  options.ranges = {
      {LinearRole::kAttention, {4, 8}}, {LinearRole::kExpert, {2, 8}}, {LinearRole::kSharedExpert, {2, 8}}};
  EXPECT_THAT(usage_error([&] { allocate(model, options); }), HasSubstr("2.9 bits per weight is not enough"));
  EXPECT_THAT(usage_error([&] { allocate(model, options); }), HasSubstr("allow is 3.0000"));
  options.bits = 3.0;
  EXPECT_EQ(allocate(model, options).budget.mean_bits, 3.0);
  const std::int64_t least = allocate(model, options).budget.total_bytes;
  options.bits = 0;
  options.total_bytes = least - 1;
  EXPECT_THAT(usage_error([&] { allocate(model, options); }), HasSubstr(fmt::format("allow is {}", least)));
  options.total_bytes = least;
  EXPECT_EQ(allocate(model, options).budget.total_bytes, least);
}

TEST(Allocate, OptionsThatMakeNoSenseAreRefused) {
  const ModelSensitivity model = random_sensitivity({}, 1);
  const auto refused = [&](const AllocationOptions& options) { return usage_error([&] { allocate(model, options); }); };
  EXPECT_THAT(refused({}), HasSubstr("either bits per weight or total bytes"));
  EXPECT_THAT(refused({.bits = 2, .total_bytes = 5}), HasSubstr("either"));
  EXPECT_THAT(refused({.bits = 8.5}), HasSubstr("8.5"));
  EXPECT_THAT(refused({.bits = std::numeric_limits<double>::quiet_NaN()}), HasSubstr("nan"));
  EXPECT_THAT(refused({.total_bytes = -3}), HasSubstr("-3"));
  EXPECT_THAT(refused({.bits = 2, .head_bits = 9}), HasSubstr("9"));
  EXPECT_THAT(refused({.bits = 2, .ranges = {{LinearRole::kExpert, {3, 2}}}}), HasSubstr("3 to 2"));
  EXPECT_THAT(refused({.bits = 2, .ranges = {{LinearRole::kRouter, {2, 3}}}}), HasSubstr("router"));
  EXPECT_THAT(refused({.bits = 2, .ranges = {{LinearRole::kHead, {2, 3}}}}), HasSubstr("head"));
  EXPECT_THAT(refused({.bits = 2, .max_tuples = -1}), HasSubstr("-1"));
  EXPECT_THAT(refused({.method = AllocationMethod::kUniform, .bits = 2, .ranges = {{LinearRole::kExpert, {2, 3}}}}),
              HasSubstr("only the optimal allocation"));
  EXPECT_THAT(refused({.method = AllocationMethod::kReference, .bits = 2, .head_bits = 0}), HasSubstr("reference"));
}

TEST(Allocate, BrokenSensitivityIsRefused) {
  ModelSensitivity model = random_sensitivity({}, 1);
  model.linears[3].loss[4] = std::numeric_limits<double>::quiet_NaN();
  const std::string text = error_text(ErrorKind::kBadInput, [&] { allocate(model, {.bits = 2}); });
  EXPECT_THAT(text, HasSubstr("model.layers.0.self_attn.o_proj: the loss at 4 bits is nan"));
}

}  // namespace
}  // namespace fairway::test
