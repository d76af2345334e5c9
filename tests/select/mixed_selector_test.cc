// Selection by name: the documents' rules on widths, memory, availability, and what recorded latencies change.
#include "select/mixed_selector.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "select/expect_error.h"

namespace fairway::select {
namespace {

using test::usage_error;
using testing::HasSubstr;

const KernelSet kDocumentKernels{"fast_2bit_kernel", "mixed_bpw_kernel", "moe_trellis_swiglu"};
constexpr char kFast[] = "fast_2bit_kernel", kMixed[] = "mixed_bpw_kernel", kStandard[] = "moe_trellis_swiglu";

MixedSelectorOptions m4(double exploration = 0) {
  MixedSelectorOptions options;
  options.initial_exploration_rate = exploration;
  options.min_exploration_rate = exploration / 5;
  options.device = &device_profile("M4 Max");
  return options;
}

MixedRequest request(std::vector<int> bits, int batch = 8, double pressure = 0) {
  return {batch, std::move(bits), pressure, &kDocumentKernels, 0};
}

const std::vector<int> kAllFour{4, 4, 4, 4}, kHalfTwo{2, 4, 2, 4}, kMostlyTwo{2, 2, 2, 4};

void record(MixedKernelSelector& selector, const char* kernel, double milliseconds, int times, int batch = 8) {
  for (int i = 0; i < times; ++i) selector.record(kernel, batch, milliseconds * (1 + 0.01 * (i % 3)), "test");
}

// Founding document 000, "Mixed BPW Heuristics".
TEST(MixedSelector, TheDocumentsRulesOnWidths) {
  const struct {
    std::vector<int> bits;
    const char* kernel;
  } rules[] = {{kMostlyTwo, kFast},       {{2}, kFast},           {{2, 2, 3}, kFast},  {kHalfTwo, kMixed},
               {{2, 3}, kMixed},          {{2, 3, 3, 4}, kMixed}, {{2, 8}, kStandard}, {kAllFour, kStandard},
               {{3, 4, 3, 4}, kStandard}, {{8}, kStandard}};
  for (const auto& rule : rules) {
    for (const int batch : {1, 8, 20, 100}) {
      MixedKernelSelector selector(m4());
      const MixedSelection selection = selector.select(request(rule.bits, batch));
      EXPECT_EQ(selection.kernel, rule.kernel) << testing::PrintToString(rule.bits);
      EXPECT_EQ(selection.heuristic, rule.kernel);
      EXPECT_EQ(selection.reason, "heuristic");
      EXPECT_EQ(selection.bucket, batch == 1    ? "decode"
                                  : batch == 8  ? "prefill4"
                                  : batch == 20 ? "base"
                                                : "large_batch");
      EXPECT_EQ(selection.tile_n, batch == 100 ? 128 : 64);
      EXPECT_EQ(selection.pattern.active_expert_bits, rule.bits);
    }
  }
}

TEST(MixedSelector, ProcessorsGoByTheBatch) {
  const KernelSet all{"moe_trellis_swiglu_decode", "moe_trellis_swiglu_grouped"};
  MixedSelectorOptions options = m4();
  options.device = &device_profile("cpu_avx512");
  MixedKernelSelector selector(options);
  EXPECT_EQ(selector.select({1, kMostlyTwo, 0.0, &all, 0}).kernel, "moe_trellis_swiglu_decode");
  EXPECT_EQ(selector.select({9, kMostlyTwo, 0.0, &all, 0}).kernel, "moe_trellis_swiglu_grouped");
  // On whatever this machine is, what is chosen can run.
  MixedKernelSelector here;
  for (const int batch : {1, 5, 50}) EXPECT_TRUE(is_available(here.select({batch, kHalfTwo, 0.2}).kernel));
}

TEST(MixedSelector, MemoryPressureAboveNineTenthsTakesTheStandardKernel) {
  MixedKernelSelector selector(m4());
  EXPECT_EQ(selector.select(request(kMostlyTwo, 8, 0.9)).kernel, kFast);
  const MixedSelection high = selector.select(request(kMostlyTwo, 8, 0.91));
  EXPECT_EQ(high.kernel, kStandard);
  EXPECT_EQ(high.reason, "memory_pressure");
  EXPECT_EQ(high.heuristic, kFast);
  EXPECT_EQ(high.memory_pressure, 0.91);
  const MixedSelection read = selector.select({8, kAllFour, std::nullopt, &kDocumentKernels});
  EXPECT_GE(read.memory_pressure, 0);
  EXPECT_LE(read.memory_pressure, 1);
  for (const double bad : {-0.1, 1.1, std::nan("")}) {
    EXPECT_THAT(usage_error([&] { selector.select(request(kAllFour, 8, bad)); }), HasSubstr("memory pressure"));
  }
}

// Neither curiosity nor old latencies take another kernel while memory is short.
TEST(MixedSelector, MemoryPressureOverrulesWhatWasLearned) {
  MixedKernelSelector selector(m4(0.5));
  record(selector, kStandard, 5, 20);
  record(selector, kMixed, 1, 20);
  for (const auto& bits : {kAllFour, kHalfTwo, kMostlyTwo}) {
    for (int call = 0; call < 200; ++call) ASSERT_EQ(selector.select(request(bits, 8, 0.95)).kernel, kStandard);
  }
}

TEST(MixedSelector, WhatIsNotAvailableIsReplacedAndSaidSo) {
  MixedKernelSelector selector(m4());
  const KernelSet only{kMixed};
  const MixedSelection selection = selector.select({8, kAllFour, 0.0, &only});
  EXPECT_EQ(selection.kernel, kMixed);
  EXPECT_EQ(selection.reason, "availability");
  EXPECT_EQ(selection.heuristic, kStandard);
  selector.set_available_kernels({kStandard});
  EXPECT_EQ(selector.select({8, kMostlyTwo, 0.0}).kernel, kStandard);
  EXPECT_EQ(selector.select(request(kMostlyTwo)).kernel, kFast);  // the request's own set comes first
  usage_error([&] { selector.set_available_kernels({}); });
  EXPECT_THAT(usage_error([&] { selector.set_available_kernels({"turbo"}); }), HasSubstr("turbo"));
  const KernelSet unknown{kMixed, "turbo"};
  EXPECT_THAT(usage_error([&] { selector.select({8, kAllFour, 0.0, &unknown}); }), HasSubstr("turbo"));
}

// In either order of recording: what was timed first has no right of its own.
TEST(MixedSelector, AKernelRecordedMuchFasterIsChosen) {
  for (const bool fast_first : {false, true}) {
    SCOPED_TRACE(fast_first);
    MixedKernelSelector selector(m4());
    if (fast_first) record(selector, kFast, 1, 4);
    record(selector, kStandard, 5, 10);
    if (!fast_first) record(selector, kFast, 1, 4);
    EXPECT_EQ(selector.select(request(kAllFour)).reason, "heuristic");  // four times are too few
    record(selector, kFast, 1, 6);
    const MixedSelection selection = selector.select(request(kAllFour));
    EXPECT_EQ(selection.kernel, kFast);
    EXPECT_EQ(selection.reason, "history");
    EXPECT_EQ(selection.heuristic, kStandard);
    EXPECT_EQ(selector.select(request(kAllFour, 100)).kernel, kStandard);  // another bucket
    const KernelSet without{kMixed, kStandard};
    EXPECT_EQ(selector.select({8, kAllFour, 0.0, &without}).kernel, kStandard);
    EXPECT_EQ(selector.select(request(kAllFour)).kernel, kFast);
  }
}

// Requests of one bucket differ in their widths; what is known of another request's kernel overrules nothing by itself.
TEST(MixedSelector, AKernelThatWasNeverTimedKeepsItsPlace) {
  MixedKernelSelector selector(m4());
  EXPECT_EQ(selector.select(request(kMostlyTwo)).kernel, kFast);
  record(selector, kFast, 1, 30);
  const MixedSelection selection = selector.select(request(kAllFour));
  EXPECT_EQ(selection.kernel, kStandard);
  EXPECT_EQ(selection.reason, "heuristic");
  record(selector, kMixed, 0.5, 30);
  EXPECT_EQ(selector.select(request(kMostlyTwo)).reason, "history");
  EXPECT_EQ(selector.select(request(kAllFour)).kernel, kStandard);
  record(selector, kStandard, 0.5, 30);  // no better and no worse than what is fastest
  EXPECT_EQ(selector.select(request(kAllFour)).kernel, kStandard);
  EXPECT_EQ(selector.select(request(kMostlyTwo)).kernel, kMixed);
}

TEST(MixedSelector, OverlappingLatenciesDoNotTakeTurns) {
  constexpr std::uint64_t kSeed = 5;
  MixedKernelSelector selector(m4());
  std::mt19937_64 random(kSeed);
  std::normal_distribution<double> noise(1, 0.05);
  int changes = 0;
  std::string last = kStandard;
  for (int call = 0; call < 1000; ++call) {
    for (const char* kernel : {kStandard, kMixed}) selector.record(kernel, 8, noise(random));
    const std::string now = selector.select(request(kAllFour)).kernel;
    changes += now != last;
    last = now;
  }
  EXPECT_LT(changes, 10) << "seed " << kSeed;
}

TEST(MixedSelector, ExplorationTakesItsShare) {
  for (const double rate : {0.05, 0.2}) {
    MixedSelectorOptions options = m4(rate);
    options.min_exploration_rate = rate;
    MixedKernelSelector selector(options);
    constexpr int kCalls = 20000;
    int explored = 0;
    for (int call = 0; call < kCalls; ++call) {
      const MixedSelection selection = selector.select(request(kAllFour));
      explored += selection.reason == "exploration";
      EXPECT_EQ(selection.reason == "exploration", selection.kernel != kStandard);
      selector.record(selection.kernel, 8, 1.0, selection.reason);
    }
    // Four standard deviations of a binomial share.
    EXPECT_NEAR(explored / double{kCalls}, rate, 4 * std::sqrt(rate * (1 - rate) / kCalls)) << "seed " << options.seed;
    EXPECT_EQ(selector.stats().by_reason.at("exploration"), static_cast<std::uint64_t>(explored));
  }
}

TEST(MixedSelector, ExplorationDecaysToItsLeast) {
  MixedSelectorOptions options;
  options.device = &device_profile("M4");
  MixedKernelSelector selector(options);
  EXPECT_NEAR(selector.exploration_rate(), 0.05, 1e-9);
  selector.select(request(kAllFour));
  selector.adapt_exploration_rate(1);
  EXPECT_NEAR(selector.exploration_rate(), 0.025, 1e-9);
  record(selector, kStandard, 1, 300);
  EXPECT_NEAR(selector.exploration_rate(), 0.01, 1e-9);
  EXPECT_NEAR(selector.select(request(kAllFour)).exploration_rate, 0.01, 1e-9);
  usage_error([&] { selector.adapt_exploration_rate(2); });
}

TEST(MixedSelector, HistoryHasALength) {
  MixedSelectorOptions options = m4();
  options.history_len = 10;
  MixedKernelSelector selector(options);
  for (int i = 1; i <= 25; ++i) selector.record(kFast, 8, 100 + i, fmt::format("call {}", i));
  EXPECT_EQ(selector.analyze(kFast, 8).samples, 10);
  EXPECT_EQ(selector.analyze(kFast, 8).min_ms, 116);
  const auto records = selector.records();
  ASSERT_EQ(records.size(), 10u);
  EXPECT_EQ(records.front().latency_ms, 116);
  EXPECT_EQ(records.back().latency_ms, 125);
  EXPECT_EQ(records.back().selected_by, "call 25");
  EXPECT_EQ(records.back().bucket, "prefill4");
  options.history_len = 3;
  usage_error([&] { MixedKernelSelector unusable(options); });
  options = m4();
  options.confidence_threshold = 1;
  usage_error([&] { MixedKernelSelector unusable(options); });
}

TEST(MixedSelector, AccuracyIsTheShareOfRecordsOfTheFastestKernel) {
  MixedKernelSelector selector(m4());
  EXPECT_EQ(selector.stats().accuracy(), 0);
  record(selector, kStandard, 1, 6);
  record(selector, kMixed, 2, 2);
  record(selector, kMixed, 2, 1, 100);  // alone in its bucket
  const SelectionStats stats = selector.stats();
  EXPECT_EQ(stats.recorded, 9u);
  EXPECT_EQ(stats.correct_selections, 7u);
  EXPECT_DOUBLE_EQ(stats.accuracy(), 7.0 / 9);
  for (int i = 0; i < 3; ++i) selector.select(request(kAllFour));
  EXPECT_EQ(selector.stats().total_selections, 3u);
  EXPECT_EQ(selector.stats().by_kernel.at(kStandard), 3u);
  EXPECT_EQ(selector.stats().by_reason.at("heuristic"), 3u);
}

TEST(MixedSelector, AnalysisDescribesTheSamples) {
  MixedKernelSelector selector(m4());
  for (const double time : {2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0}) selector.record(kFast, 8, time);
  const KernelAnalysis analysis = selector.analyze(kFast, 2);
  EXPECT_EQ(analysis.bucket, "prefill4");
  EXPECT_EQ(analysis.samples, 8);
  EXPECT_DOUBLE_EQ(analysis.mean_ms, 5);
  EXPECT_DOUBLE_EQ(analysis.median_ms, 4.5);
  EXPECT_DOUBLE_EQ(analysis.min_ms, 2);
  EXPECT_DOUBLE_EQ(analysis.max_ms, 9);
  EXPECT_DOUBLE_EQ(analysis.std_ms, std::sqrt(32.0 / 7));
  ASSERT_TRUE(analysis.interval.has_value());
  EXPECT_NEAR(analysis.interval->low, 5 - 1.787488, 1e-5);
  EXPECT_EQ(selector.analyze(kFast, 1).samples, 0);
  EXPECT_FALSE(selector.analyze(kMixed, 8).interval.has_value());
  usage_error([&] { selector.analyze(kFast, 8, 1.0); });
}

TEST(MixedSelector, ResetForgetsAll) {
  MixedKernelSelector selector(m4());
  record(selector, kStandard, 5, 10);
  record(selector, kFast, 1, 10);
  EXPECT_EQ(selector.select(request(kAllFour)).reason, "history");
  selector.reset();
  EXPECT_EQ(selector.select(request(kAllFour)).reason, "heuristic");
  EXPECT_EQ(selector.stats().recorded, 0u);
  EXPECT_EQ(selector.stats().total_selections, 1u);
  EXPECT_TRUE(selector.records().empty());
  EXPECT_EQ(selector.analyze(kFast, 8).samples, 0);
}

TEST(MixedSelector, WhatCannotBeIsAnError) {
  MixedKernelSelector selector(m4());
  EXPECT_THAT(usage_error([&] { selector.record("turbo", 8, 1); }), HasSubstr("turbo"));
  EXPECT_THAT(usage_error([&] { selector.analyze("turbo", 8); }), HasSubstr("turbo"));
  for (const double bad : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    EXPECT_THAT(usage_error([&] { selector.record(kFast, 8, bad); }), HasSubstr("latency"));
  }
  usage_error([&] { selector.record(kFast, 0, 1); });
  usage_error([&] { selector.select(request({})); });
  usage_error([&] { selector.select(request({9})); });
  usage_error([&] { selector.select(request({4}, 0)); });
  EXPECT_EQ(selector.stats().recorded, 0u);
  EXPECT_EQ(selector.stats().total_selections, 0u);
}

}  // namespace
}  // namespace fairway::select
