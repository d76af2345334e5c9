// The table and the JSON of a plan.
#include "quantize/plan_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fairway/error.h"
#include "quantize/allocate.h"
#include "quantize/random_sensitivity.h"
#include "select/expect_error.h"

namespace fairway::test {
namespace {

using quantize::BitPlan;
using testing::HasSubstr;

// One layer with three experts and a head; every matrix has 16384 weights and loses 4^(1 - bits).
ModelSensitivity small_model() {
  ModelSensitivity model{.model = "small", .fixed_bytes = 1'000'000, .linears = {}};
  model.linears.push_back(linear_of("model.layers.0.self_attn.q_proj", LinearRole::kAttention, 0, -1, 1, 1));
  model.linears.push_back(
      linear_of("model.layers.0.self_attn.kv_a_proj_with_mqa", LinearRole::kAttention, 0, -1, 1, 1));
  for (int e = 0; e < 3; ++e) {
    for (const char* leaf : {"gate", "up", "down"}) {
      model.linears.push_back(
          linear_of(fmt::format("model.layers.0.mlp.experts.{}.{}_proj", e, leaf), LinearRole::kExpert, 0, e, 1, 1));
    }
  }
  model.linears.push_back(linear_of("lm_head", LinearRole::kHead, -1, -1, 1, 1));
  return model;
}

BitPlan small_plan() {
  BitPlan plan;
  plan.model = "small";
  plan.method = "manual";
  const int widths[] = {4, 5, 6, 2, 3, 1, 1, 1, 1, 1, 1, 6};
  const ModelSensitivity model = small_model();
  for (std::size_t i = 0; i < model.linears.size(); ++i) plan.linears.push_back({model.linears[i].prefix, widths[i]});
  return plan;
}

// Losses: attention 4^-3 + 4^-4 = 5/256; experts 4^-5 + 1/4 + 1/16 + 6 = 6.3134765625; head 1/1024; sum 6.333984375.
// Bytes: 16384 * bits / 8 + 64 for each matrix, 32 bits in all: 66,304 and the fixed million.
TEST(PlanReport, TableAddsUp) {
  EXPECT_EQ(quantize::plan_table(small_plan(), small_model()),
            "layer  role            bits         MB      loss  widths (experts: gate,up,down)\n"
            "    0  attention       4.50      0.019    0.31 %  q 4, kv_a_with_mqa 5\n"
            "    0  expert          1.89      0.035   99.68 %  2x (1,1,1), 1x (6,2,3)\n"
            "       head            6.00      0.012    0.02 %  lm_head 6\n"
            "  all                  2.67      0.066  100.00 %\n"
            "1.066 MB in all, 1.000 of it tensors kept as they are; predicted loss 6.33398 nats per token\n");
}

TEST(PlanReport, TableOfAnAllocationHasItsBudget) {
  const ModelSensitivity model = random_sensitivity({.layers = 3, .experts = 8}, 1);
  const std::string text = quantize::plan_table(quantize::allocate(model, {.bits = 2.5}), model);
  EXPECT_THAT(text, HasSubstr("bits per weight of 2.5 asked for\n"));
  EXPECT_THAT(text, HasSubstr("% above a bound"));
  EXPECT_THAT(text, HasSubstr("    2  shared_expert"));
}

TEST(PlanReport, JsonHasWhatThePictureNeeds) {
  const ModelSensitivity model = small_model();
  const nlohmann::ordered_json bare = quantize::plan_json(small_plan());
  EXPECT_EQ(bare["schema"], "fairway-bit-plan-1");
  EXPECT_EQ(bare["codebook"], "mul1");
  ASSERT_EQ(bare["linears"].size(), 12u);
  EXPECT_EQ(
      bare["linears"][4].dump(),
      "{\"prefix\":\"model.layers.0.mlp.experts.0.down_proj\",\"layer\":0,\"module\":\"mlp.experts\",\"expert\":0,"
      "\"name\":\"down_proj\",\"bits\":3}");
  EXPECT_EQ(bare["linears"][11]["layer"], -1);
  const nlohmann::ordered_json full = quantize::plan_json(small_plan(), &model);
  EXPECT_EQ(full["linears"][4]["role"], "expert");
  EXPECT_EQ(full["linears"][4]["bytes"], 16384 * 3 / 8 + 64);
  EXPECT_EQ(full["linears"][4]["loss"], 1.0 / 16);
}

TEST(PlanReport, PlanAndSensitivityMustFit) {
  const auto refused = [](const BitPlan& plan) {
    return error_text(ErrorKind::kBadInput, [&] { quantize::plan_table(plan, small_model()); });
  };
  BitPlan plan = small_plan();
  plan.linears.pop_back();
  EXPECT_THAT(refused(plan), HasSubstr("no width for 'lm_head'"));
  plan = small_plan();
  plan.linears[3].prefix = "x";
  EXPECT_THAT(refused(plan), HasSubstr("'x'"));
}

}  // namespace
}  // namespace fairway::test
