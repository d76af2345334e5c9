// What is known of a layer and of the groups that its calls form.
#include "select/moe_call.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

#include "common/random_trellis.h"
#include "select/expect_error.h"

namespace fairway::select {
namespace {

using kernels::BitTuple;
using kernels::codebook_bit;
using test::usage_error;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::uint8_t kMul1 = codebook_bit(codec::Codebook::kMul1);
constexpr std::uint8_t kMcg = codebook_bit(codec::Codebook::kMcg);

MoeLayerTraits layer(int experts = 64, int top_k = 4, std::vector<TupleShare> mix = {{{6, 2, 3}, 1}}) {
  return moe_traits(2048, 1408, experts, top_k, 1, kMul1, std::move(mix));
}

TEST(MoeTraits, SharesAreNormalisedAndSorted) {
  const MoeLayerTraits traits = layer(64, 4, {{{2, 2, 2}, 10}, {{4, 4, 4}, 30}, {{3, 3, 3}, 10}});
  ASSERT_EQ(traits.mix.size(), 3u);
  EXPECT_DOUBLE_EQ(traits.mix[0].share, 0.6);
  EXPECT_EQ(traits.mix[0].bits, (BitTuple{4, 4, 4}));
  EXPECT_EQ(traits.mix[1].bits, (BitTuple{2, 2, 2}));  // of equal shares the lower tuple
  EXPECT_DOUBLE_EQ(traits.mean_bits(), 0.6 * 4 + 0.2 * 2 + 0.2 * 3);
  EXPECT_THAT(traits.widths(), ElementsAre(2, 3, 4));
  EXPECT_EQ(traits.mix_text(), "60% (4,4,4), 20% (2,2,2), 20% (3,3,3)");
  EXPECT_EQ(layer().mix_text(), "(6,2,3)");
  EXPECT_THAT(layer().widths(), ElementsAre(2, 3, 6));
  EXPECT_NEAR(layer().mean_bits(), 11.0 / 3, 1e-12);
  EXPECT_EQ(MoeLayerTraits{}.mix_text(), "not trellis");
  const auto many = layer(64, 4, {{{1, 1, 1}, 1}, {{2, 2, 2}, 1}, {{3, 3, 3}, 1}, {{4, 4, 4}, 1}, {{5, 5, 5}, 1}});
  EXPECT_THAT(many.mix_text(), HasSubstr("and 2 more"));
}

// The key says which layers share what is learned.
TEST(MoeTraits, KeysAreEqualForLayersThatAreTreatedAlike) {
  EXPECT_NE(layer().key, 0u);
  EXPECT_EQ(layer().key, layer().key);
  EXPECT_EQ(layer().key, layer(64, 4, {{{2, 3, 6}, 5}}).key);  // the same mean, one tuple
  const std::vector<MoeLayerTraits> different{
      layer(),
      layer(128),
      layer(64, 8),
      layer(64, 4, {{{4, 4, 4}, 1}}),
      layer(64, 4, {{{3, 3, 3}, 1}, {{5, 5, 5}, 1}}),  // the same mean, but mixed
      moe_traits(2048, 1408, 64, 4, 0, kMul1, {{{6, 2, 3}, 1}}),
      moe_traits(2048, 1408, 64, 4, 1, kMcg, {{{6, 2, 3}, 1}}),
      moe_traits(1408, 2048, 64, 4, 1, kMul1, {{{6, 2, 3}, 1}}),
  };
  std::set<std::uint64_t> keys;
  for (const MoeLayerTraits& traits : different) keys.insert(traits.key);
  EXPECT_EQ(keys.size(), different.size());
}

TEST(MoeTraits, ALayerThatCannotBeIsAnError) {
  const std::vector<TupleShare> mix{{{3, 3, 3}, 1}};
  EXPECT_THAT(usage_error([&] { moe_traits(0, 64, 8, 2, 0, kMul1, mix); }), HasSubstr("hidden size 0"));
  usage_error([&] { moe_traits(64, 0, 8, 2, 0, kMul1, mix); });
  usage_error([&] { moe_traits(64, 64, 8, 9, 0, kMul1, mix); });
  usage_error([&] { moe_traits(64, 64, 8, 0, 1, kMul1, mix); });
  usage_error([&] { moe_traits(64, 64, 0, 0, 0, kMul1, mix); });
  usage_error([&] { moe_traits(64, 64, 8, 2, -1, kMul1, mix); });
  usage_error([&] { moe_traits(64, 64, 8, 2, 0, kMul1, {}); });
  EXPECT_NO_THROW(moe_traits(64, 64, 0, 0, 1, kMul1, mix));  // a dense MLP
}

TEST(MoeTraits, ALayerOfWeightsIsDescribedLikeItsNumbers) {
  test::Random random(4);
  const test::RandomTrellis gate(256, 128, 6, codec::Codebook::kMul1, random);
  const test::RandomTrellis up(256, 128, 2, codec::Codebook::kMul1, random);
  const test::RandomTrellis down(128, 256, 3, codec::Codebook::kMcg, random);
  const std::vector<kernels::ExpertWeights> experts(5, {gate.view(), up.view(), down.view()});
  const MoeLayerTraits traits = describe_moe_layer(experts, {experts[0]}, 2, 256);
  EXPECT_EQ(traits.key, moe_traits(256, 128, 5, 2, 1, kMul1 | kMcg, {{{6, 2, 3}, 1}}).key);
  EXPECT_EQ(traits.mix_text(), "(6,2,3)");
  const MoeLayerTraits mlp = describe_moe_layer({}, {experts[0]}, 2, 256);
  EXPECT_EQ(mlp.experts, 0);
  EXPECT_EQ(mlp.top_k, 0);
  EXPECT_EQ(mlp.intermediate, 128);
  EXPECT_NE(describe_moe_layer({}, {}, 0, 256).key, 0u);
}

TEST(ExpectedGroups, HoldEveryToken) {
  for (const int tokens : {1, 2, 7, 32, 500, 4096}) {
    for (const auto& traits : {layer(), layer(8, 2), layer(256, 8)}) {
      double rows = 0;
      int last = 0;
      for (const GroupSize& group : expected_groups(traits, tokens)) {
        const bool always_on = group.m == tokens && group.experts >= 1;
        EXPECT_TRUE(always_on || group.m > last) << "not ascending";
        last = group.m;
        EXPECT_GE(group.experts, 1e-3);
        rows += group.m * group.experts;
      }
      const double routed = static_cast<double>(tokens) * traits.top_k + tokens;  // one expert takes every token
      EXPECT_LE(rows, routed * (1 + 1e-9)) << tokens << " tokens, " << traits.experts << " experts";
      EXPECT_GE(rows, routed * 0.98) << tokens << " tokens, " << traits.experts << " experts";
    }
  }
}

TEST(ExpectedGroups, AreTheBinomialOnes) {
  const auto one = expected_groups(layer(64, 4), 1);
  ASSERT_EQ(one.size(), 2u);
  EXPECT_EQ(one[0].m, 1);
  EXPECT_NEAR(one[0].experts, 4, 1e-9);
  EXPECT_EQ(one[1].m, 1);
  EXPECT_EQ(one[1].experts, 1);
  // Two tokens, one of two experts each: a half chance of one group of two.
  const auto two = expected_groups(moe_traits(64, 64, 2, 1, 0, kMul1, {{{3, 3, 3}, 1}}), 2);
  ASSERT_EQ(two.size(), 2u);
  EXPECT_NEAR(two[0].experts, 1.0, 1e-9);
  EXPECT_NEAR(two[1].experts, 0.5, 1e-9);
  // Every expert gets every token.
  const auto all = expected_groups(moe_traits(64, 64, 3, 3, 0, kMul1, {{{3, 3, 3}, 1}}), 9);
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].m, 9);
  EXPECT_DOUBLE_EQ(all[0].experts, 3);
  const auto mlp = expected_groups(moe_traits(64, 64, 0, 0, 2, kMul1, {{{3, 3, 3}, 1}}), 5);
  ASSERT_EQ(mlp.size(), 1u);
  EXPECT_EQ(mlp[0].m, 5);
  EXPECT_EQ(mlp[0].experts, 2);
}

}  // namespace
}  // namespace fairway::select
