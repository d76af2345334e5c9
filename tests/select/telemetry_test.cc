// What is counted appears, under the names that are documented.
#include "select/telemetry.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace fairway::select {
namespace {

MoeLayerTraits layer() {
  return moe_traits(2048, 1536, 64, 4, 1, kernels::codebook_bit(codec::Codebook::kMul1), {{{6, 2, 3}, 1}});
}

SelectorOptions learning() {
  SelectorOptions options;
  options.policy = make_policy("", "", "");
  options.threads = 2;
  options.learn = true;
  return options;
}

TEST(Telemetry, JsonCountsCallsAndSamples) {
  KernelSelector selector(learning());
  for (int i = 0; i < 10; ++i) selector.record(selector.decide(layer(), 16), 2.0);
  const auto json = nlohmann::json::parse(telemetry_json(selector));
  EXPECT_EQ(json["threads"], 2);
  EXPECT_EQ(json["learns"], true);
  ASSERT_EQ(json["sites"].size(), 1u);
  const auto& site = json["sites"][0];
  EXPECT_EQ(site["tokens"], 16);
  EXPECT_EQ(site["mix"], "(6,2,3)");
  int calls = 0, samples = 0;
  for (const auto& candidate : site["candidates"]) {
    calls += candidate["calls"].get<int>();
    if (candidate.contains("samples")) samples += candidate["samples"].get<int>();
    if (candidate.contains("samples") && candidate["samples"] != 0) {
      EXPECT_EQ(candidate["mean_ms"], 2.0);
    }
  }
  EXPECT_EQ(calls, 10);
  EXPECT_EQ(samples, site["candidates"].size() > 1 ? 10 : 0);
}

TEST(Telemetry, PrometheusTextHasEveryFamilyAndTheCounts) {
  KernelSelector selector(learning());
  for (int i = 0; i < 3; ++i) selector.record(selector.decide(layer(), 1), 4.0);
  const std::string text = telemetry_prometheus(selector);
  EXPECT_NE(text.find("# TYPE fairway_moe_calls_total counter"), std::string::npos) << text;
  EXPECT_NE(text.find("mix=\"(6,2,3)\""), std::string::npos) << text;
  EXPECT_NE(text.find("tokens=\"1\""), std::string::npos) << text;
  if (selector.sites().front()->learner != nullptr) {
    EXPECT_NE(text.find("# TYPE fairway_selection_switches_total counter"), std::string::npos) << text;
    EXPECT_NE(text.find("} 0.004\n"), std::string::npos) << text;
  }
}

TEST(Telemetry, WithoutCallsThereAreNoSites) {
  const KernelSelector selector(learning());
  EXPECT_TRUE(nlohmann::json::parse(telemetry_json(selector))["sites"].empty());
}

}  // namespace
}  // namespace fairway::select
