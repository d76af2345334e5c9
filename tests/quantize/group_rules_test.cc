// The rules that raise whole groups, on examples worked by hand.
#include "quantize/group_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fairway/error.h"
#include "quantize/allocate.h"
#include "quantize/random_sensitivity.h"

namespace fairway::test {
namespace {

using quantize::allocate;
using quantize::AllocationMethod;
using quantize::BitPlan;

// Three layers: 0 dense, 1 and 2 with two experts and a shared one. Every matrix has one block, those of attention two,
// so groups weigh: qkv 6, o 2, gate+up 2, down 1, experts 6. A dense layer weighs 8 + 3, one with experts 8 + 6 + 3:
// 45 in all, a head of 5 aside.
ModelSensitivity example() {
  ModelSensitivity model = random_sensitivity({.layers = 3, .dense_layers = 1, .experts = 2, .attention_blocks = 2}, 1);
  model.model = "example";
  return model;
}

std::string widths_of(const BitPlan& plan, const std::string& part) {
  std::string widths;
  for (const auto& linear : plan.linears) {
    if (linear.prefix.find(part) != std::string::npos) widths += std::to_string(linear.bits);
  }
  return widths;
}

TEST(GroupRules, ReferenceSpendsOnAttentionThenSharedThenDenseThenOuterExperts) {
  // floor(2.9 * 45) = 130 block-bits, 2 everywhere take 90, 40 are left. Attention first, both ends before the middle:
  // layers 0, 2, 1 at 8 each: 16 left. Shared experts of layers 2, 1 at 3 each: 10 left. Dense MLP 3: 7 left. Experts
  // of layer 2, distance 0: 1 left, none for layer 1. Second pass: no qkv (6) and no o (2) fits, nor gate+up (2); the
  // first down is that of layer 2's shared expert (priority 3): 0 left.
  const BitPlan plan = allocate(example(), {.method = AllocationMethod::kReference, .bits = 2.9});
  EXPECT_EQ(widths_of(plan, "self_attn"), "333333333333");
  EXPECT_EQ(widths_of(plan, "layers.0.mlp"), "333");
  EXPECT_EQ(widths_of(plan, "layers.1.mlp.experts"), "222222");
  EXPECT_EQ(widths_of(plan, "layers.1.mlp.shared"), "333");
  EXPECT_EQ(widths_of(plan, "layers.2.mlp.experts"), "333333");
  EXPECT_EQ(widths_of(plan, "layers.2.mlp.shared"), "334");
  EXPECT_EQ(widths_of(plan, "lm_head"), "6");
  EXPECT_EQ(plan.method, "reference");
  EXPECT_EQ(plan.budget.loss_bound, 0);
}

TEST(GroupRules, ReferenceGoesOnWithSmallerGroupsWhenOneDoesNotFit) {
  // floor(2.23 * 45) = 100, 10 left: qkv of layer 0 takes 6, its o 2, and 2 are left. qkv of layer 2 does not fit, its
  // o does.
  const BitPlan plan = allocate(example(), {.method = AllocationMethod::kReference, .bits = 2.23});
  EXPECT_EQ(widths_of(plan, "layers.0.self_attn"), "3333");
  EXPECT_EQ(widths_of(plan, "layers.1.self_attn"), "2222");
  EXPECT_EQ(widths_of(plan, "layers.2.self_attn"), "2223");
  EXPECT_EQ(widths_of(plan, "mlp"), std::string(3 + 9 + 9, '2'));
}

TEST(GroupRules, WholeBitsAreUniform) {
  for (const auto method : {AllocationMethod::kReference, AllocationMethod::kUniform}) {
    const BitPlan plan = allocate(example(), {.method = method, .bits = 3});
    EXPECT_EQ(widths_of(plan, "layers"), std::string(12 + 3 + 9 + 9, '3'));
    const BitPlan most = allocate(example(), {.method = method, .bits = 8});
    EXPECT_EQ(widths_of(most, "layers"), std::string(12 + 3 + 9 + 9, '8'));
  }
}

TEST(GroupRules, UniformRaisesTheFirstLayers) {
  // floor(2.5 * 45) = 112, 22 left: layer 0 takes 11, then qkv 6 and o 2 of layer 1: 3 left. Its experts (6) do not
  // fit, gate+up (2) and down (1) of its shared expert do.
  const BitPlan plan = allocate(example(), {.method = AllocationMethod::kUniform, .bits = 2.5});
  EXPECT_EQ(widths_of(plan, "layers.0."), "3333333");
  EXPECT_EQ(widths_of(plan, "layers.1.self_attn"), "3333");
  EXPECT_EQ(widths_of(plan, "layers.1.mlp.experts"), "222222");
  EXPECT_EQ(widths_of(plan, "layers.1.mlp.shared"), "333");
  EXPECT_EQ(widths_of(plan, "layers.2."), std::string(13, '2'));
}

TEST(GroupRules, ProjectionsOfLatentAttentionStandAlone) {
  std::vector<LinearSensitivity> linears;
  for (const char* leaf : {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"}) {
    linears.push_back(
        linear_of(fmt::format("model.layers.0.self_attn.{}", leaf), LinearRole::kAttention, 0, -1, 1, 1.0));
  }
  EXPECT_EQ(quantize::width_groups(linears, {0, 1, 2, 3}).size(), 4u);
}

TEST(GroupRules, ReferenceNeverBeatsOptimal) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    const ModelSensitivity model = random_sensitivity({.layers = 4, .dense_layers = 1, .experts = 8}, seed);
    for (const double bits : {1.5, 2.5, 3.75}) {
      const double optimal = allocate(model, {.bits = bits}).budget.predicted_loss;
      EXPECT_LE(optimal, allocate(model, {.method = AllocationMethod::kReference, .bits = bits}).budget.predicted_loss);
      EXPECT_LE(optimal, allocate(model, {.method = AllocationMethod::kUniform, .bits = bits}).budget.predicted_loss);
    }
  }
}

}  // namespace
}  // namespace fairway::test
