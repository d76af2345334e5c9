// Timing on small random layers: what is called, what is kept, and what the table says afterwards. Nothing here asserts
// that a kernel is fast.
#include "select/autotuner.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "common/machine.h"
#include "fairway/error.h"
#include "select/contest.h"
#include "select/synthetic_layer.h"

namespace fairway::select {
namespace {

constexpr std::int64_t kPool = 4 << 20;
const MoeGeometry kSmall{"small", 256, 128, 8, 2, 1};

using test::Machine;

SyntheticLayers small_layers(const BitMix& mix = known_mixes().back()) {
  return SyntheticLayers(kSmall, mix, codec::Codebook::kMul1, kPool);
}

TuneOptions quick() {
  TuneOptions options;
  options.policy = make_policy("", "", "");
  options.warmup = 0;
  options.iterations = 3;
  return options;
}

TEST(SyntheticLayers, FollowTheMix) {
  const SyntheticLayers layers = small_layers({"3:1", {{{2, 2, 2}, 3}, {{6, 2, 3}, 1}}});
  ASSERT_EQ(layers.layers().size(), 16u);
  const TuneLayer& layer = layers.layers().front();
  EXPECT_EQ(layer.experts->size(), 8u);
  EXPECT_EQ(layer.always_on->size(), 1u);
  ASSERT_EQ(layer.traits.mix.size(), 2u);
  EXPECT_NEAR(layer.traits.mix[0].share, 7.0 / 9, 1e-9);
  EXPECT_EQ(layer.traits.mix_text(), "78% (2,2,2), 22% (6,2,3)");
  // 7 experts of 2 bits and 2 of 11/3, three matrices of 256 x 128 each.
  EXPECT_EQ(layers.layer_bytes(), 256 * 128 / 8 * (7 * 6 + 2 * 11));
  EXPECT_EQ(known_mixes().size(), 10u);
  EXPECT_THROW(geometry("glm48"), Error);
}

TEST(CallTimer, TouchesWhatItRoutes) {
  Machine machine;
  const SyntheticLayers layers = small_layers({"uniform", {{{4, 4, 4}, 1}}});
  CallTimer timer(layers.layers(), 1, machine.context);
  const std::int64_t expert = 3 * 256 * 128 * 4 / 8;
  EXPECT_EQ(timer.bytes_touched(), 3 * expert);  // two routed experts and the shared one
  CallTimer many(layers.layers(), 200, machine.context);
  EXPECT_EQ(many.bytes_touched(), 9 * expert);
  const double seconds = many.time(default_candidate(quick().policy, many.traits(), 200));
  EXPECT_GT(seconds, 0);
}

TEST(CallTimer, WalksAllLayersUntilTheyAreReadOnce) {
  Machine machine;
  const SyntheticLayers layers = small_layers({"uniform", {{{4, 4, 4}, 1}}});
  ASSERT_EQ(layers.layers().size(), 9u);
  // 9 layers of 9 experts, three of which a call of one token reads.
  EXPECT_EQ(CallTimer(layers.layers(), 1, machine.context).calls(), 27);
  EXPECT_EQ(CallTimer(layers.layers(), 200, machine.context).calls(), 9);
  EXPECT_EQ(CallTimer(std::span(layers.layers()).first(1), 200, machine.context).calls(), 1);
}

TEST(CallTimer, TokensBeyondTheInputsUseThemAgain) {
  Machine machine;
  const SyntheticLayers layers = small_layers();
  std::vector<TuneLayer> recorded(layers.layers().begin(), layers.layers().begin() + 2);
  for (TuneLayer& layer : recorded) layer.inputs.assign(std::size_t{3} * 256, 0.5f);
  CallTimer timer(recorded, 40, machine.context);
  EXPECT_GT(timer.time(default_candidate(quick().policy, timer.traits(), 40)), 0);
  recorded[1].inputs.pop_back();
  EXPECT_THROW(CallTimer(recorded, 40, machine.context), Error);
}

TEST(CallTimer, SharesDecideWhichExpertsAreChosen) {
  Machine machine;
  const SyntheticLayers layers = small_layers({"4 and 8", {{{4, 4, 4}, 1}}});
  std::vector<TuneLayer> skewed(layers.layers().begin(), layers.layers().begin() + 1);
  skewed[0].expert_shares = {1, 1, 0, 0, 0, 0, 0, 0};
  CallTimer timer(skewed, 50, machine.context);
  EXPECT_EQ(timer.bytes_touched(), 3 * 3 * 256 * 128 * 4 / 8);  // experts 0 and 1 for every token, and the shared one
  skewed[0].expert_shares = {1, 1};
  EXPECT_THROW(CallTimer(skewed, 50, machine.context), Error);
}

TEST(Contest, EveryCandidateTakesItsTurn) {
  Machine machine;
  const SyntheticLayers layers = small_layers();
  const auto policy = quick().policy;
  CallTimer timer(layers.layers(), 4, machine.context);
  Contest contest(legal_candidates(policy, timer.traits(), 4));
  ASSERT_TRUE(contest.warm_up(timer, 2));
  EXPECT_EQ(contest.rounds(), 0);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(contest.round(timer));
  for (int i = 0; i < static_cast<int>(contest.candidates().size()); ++i) EXPECT_EQ(contest.samples(i).size(), 3u) << i;
  const int count = static_cast<int>(contest.candidates().size());
  if (count > 2) {
    contest.keep_best(1);
    int in = 0;
    for (int i = 0; i < count; ++i) in += contest.is_in(i);
    EXPECT_EQ(in, 2);  // the default besides
  }
  contest.drop_hopeless(-1.0);  // nothing is faster than nothing: only the default stays
  for (int i = 1; i < static_cast<int>(contest.candidates().size()); ++i) EXPECT_FALSE(contest.is_in(i)) << i;
  EXPECT_TRUE(contest.is_in(0));
  EXPECT_EQ(contest.winner(), 0);
  int asked = 0;
  EXPECT_FALSE(contest.round(timer, [&] { return ++asked > 0; }));
  EXPECT_EQ(contest.rounds(), 3);
}

TEST(AutoTuner, TunesEveryBatchSizeAndKeepsTheDefaultAmongTheMeasured) {
  Machine machine;
  const SyntheticLayers layers = small_layers();
  MixedBPWAutoTuner tuner;
  int last_done = 0, last_total = 0;
  TuneOptions options = quick();
  options.progress = [&](int done, int total, const std::string&) {
    last_done = done;
    last_total = total;
  };
  const auto report = tuner.tune(layers.layers(), {1, 8, 40}, options, machine.context);
  EXPECT_TRUE(report.complete);
  EXPECT_EQ(last_done, last_total);
  ASSERT_EQ(report.entries.size(), 3u);
  for (const TunedEntry* entry : report.entries) {
    const auto is_default = [&](const MeasuredKernel& kernel) { return kernel.config == entry->fallback; };
    const auto is_best = [&](const MeasuredKernel& kernel) { return kernel.config == entry->best; };
    EXPECT_EQ(std::count_if(entry->measured.begin(), entry->measured.end(), is_default), 1) << entry->tokens;
    EXPECT_EQ(std::count_if(entry->measured.begin(), entry->measured.end(), is_best), 1) << entry->tokens;
    EXPECT_EQ(entry->threads, 2);
    EXPECT_TRUE(std::is_sorted(entry->measured.begin(), entry->measured.end(),
                               [](const auto& a, const auto& b) { return a.median_ms < b.median_ms; }));
  }
  const auto statistics = tuner.statistics();
  EXPECT_EQ(statistics.entries, 3);
  EXPECT_GE(statistics.mean_gain, 0);
}

TEST(AutoTuner, CancelledBeforeItBeginsKeepsNothing) {
  Machine machine;
  const SyntheticLayers layers = small_layers();
  MixedBPWAutoTuner tuner;
  const std::atomic<bool> cancel{true};
  TuneOptions options = quick();
  options.cancel = &cancel;
  const auto report = tuner.tune(layers.layers(), {1}, options, machine.context);
  EXPECT_FALSE(report.complete);
  EXPECT_TRUE(report.entries.empty());
  EXPECT_TRUE(tuner.table().entries.empty());
}

// Without end but for a budget of 100 s, by a clock that goes on by `step` seconds each time it is looked at, which is
// before each sample.
MixedBPWAutoTuner::TuneReport tune_by_clock(MixedBPWAutoTuner& tuner, double step, const std::vector<int>& sizes) {
  Machine machine;
  const SyntheticLayers layers = small_layers();
  TuneOptions options = quick();
  options.iterations = 1000000;
  options.budget_seconds = 100;
  double now = 0;
  options.clock = [&now, step] { return now += step; };
  return tuner.tune(layers.layers(), sizes, options, machine.context);
}

TEST(AutoTuner, NoSampleIsBegunAfterTheBudget) {
  MixedBPWAutoTuner tuner;
  const auto report = tune_by_clock(tuner, 1, {1, 2});
  EXPECT_TRUE(report.complete);
  EXPECT_EQ(report.entries.size(), 2u);
  EXPECT_GT(report.calls, 20);
  EXPECT_LE(report.calls, 100 + 10);  // and the first round, which is not asked
}

TEST(AutoTuner, AnExhaustedBudgetStillGivesOneRound) {
  MixedBPWAutoTuner tuner;
  const auto report = tune_by_clock(tuner, 200, {1});
  EXPECT_TRUE(report.complete);
  ASSERT_EQ(report.entries.size(), 1u);
  for (const TunedEntry* entry : report.entries) EXPECT_GE(entry->measured.front().samples_ms.size(), 1u);
}

TEST(AutoTuner, BenchmarkLayersTimesTheConfigurationsItIsGiven) {
  Machine machine;
  const SyntheticLayers layers = small_layers();
  MixedBPWAutoTuner tuner;
  const auto legal = legal_candidates(quick().policy, layers.layers().front().traits, 20);
  const KernelConfig asked = config_of(legal.back());
  const auto results = tuner.benchmark_layers(layers.layers(), 20, {asked}, quick(), machine.context);
  ASSERT_EQ(results.size(), legal.size() == 1 ? 1u : 2u);  // the default takes part
  for (const BenchmarkResult& result : results) {
    EXPECT_GT(result.latency_ms, 0);
    EXPECT_GT(result.throughput_gbps, 0);
    EXPECT_NEAR(result.memory_footprint_mb, static_cast<double>(layers.layer_bytes()) / 1e6, 1e-9);
    EXPECT_EQ(result.samples_ms.size(), 3u);
  }
  EXPECT_THROW(tuner.benchmark_layers(layers.layers(), 20, {{"cpu_avx9/none", 1, 64, 1, false, "base"}}, quick(),
                                      machine.context),
               Error);
}

TEST(AutoTuner, SelectsExactThenNearestThenDefault) {
  Machine machine;
  const SyntheticLayers layers = small_layers({"(6,2,3)", {{{6, 2, 3}, 1}}});
  MixedBPWAutoTuner tuner;
  tuner.tune(layers.layers(), {1, 32}, quick(), machine.context);
  const auto exact = tuner.select_kernel(32, 256, {6, 2, 3, 3});
  ASSERT_TRUE(exact);
  EXPECT_EQ(*exact, tuner.table().entries.back().best);
  EXPECT_EQ(tuner.select_kernel(25, 256, {2, 3, 6}), exact);       // nearest batch
  EXPECT_EQ(tuner.select_kernel(1, 4096, {2, 3, 6})->kernel_name,  // nearest hidden size
            tuner.table().entries.front().best.kernel_name);
  EXPECT_FALSE(tuner.select_kernel(4, 256, {5}, false, false));
  EXPECT_TRUE(tuner.select_kernel(4, 256, {5}));
  EXPECT_THROW(tuner.select_kernel(0, 256, {5}), Error);
}

TEST(AutoTuner, AdaptsOnlyWhenFiveSamplesAgree) {
  MixedBPWAutoTuner tuner;
  const std::vector<int> widths{2, 4};
  const std::string slow = "moe_trellis_swiglu", fast = "moe_trellis_swiglu_grouped";
  for (int i = 0; i < 4; ++i) tuner.record_latency(fast, 8, 1.0 + 0.01 * i, 256, widths);
  EXPECT_FALSE(tuner.adapt_selection(8, 256, widths));
  tuner.record_latency(fast, 8, 1.0, 256, widths);
  EXPECT_TRUE(tuner.adapt_selection(8, 256, widths));
  for (int i = 0; i < 6; ++i) tuner.record_latency(slow, 8, 2.0 + 0.01 * i, 256, widths);
  const auto adapted = tuner.adapt_selection(8, 256, widths);
  ASSERT_TRUE(adapted);
  EXPECT_NE(adapted->kernel_name.find("grouped"), std::string::npos) << adapted->kernel_name;
  for (int i = 0; i < 12; ++i) tuner.record_latency(slow, 8, i % 2 == 0 ? 0.1 : 2.0, 256, widths);
  EXPECT_FALSE(tuner.adapt_selection(8, 256, widths)) << "the intervals overlap now";
  EXPECT_EQ(tuner.statistics().latencies_recorded, 23);
  tuner.clear_adaptation_history();
  EXPECT_FALSE(tuner.adapt_selection(8, 256, widths));
  EXPECT_THROW(tuner.record_latency("no_such_kernel", 8, 1), Error);
  EXPECT_THROW(tuner.record_latency(fast, 8, std::nan("")), Error);
}

TEST(AutoTuner, ExportsAndLoads) {
  Machine machine;
  const SyntheticLayers layers = small_layers();
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "autotuner_test" / "table.json";
  MixedBPWAutoTuner tuner("", path);
  tuner.tune(layers.layers(), {1, 16}, quick(), machine.context);
  const std::string text = tuner.export_config();
  EXPECT_TRUE(std::filesystem::exists(path));
  const MixedBPWAutoTuner loaded = MixedBPWAutoTuner::load_config(path);
  EXPECT_EQ(loaded.export_config(path), text);
  EXPECT_EQ(loaded.select_kernel(16, 256, {2, 3, 4}), tuner.select_kernel(16, 256, {2, 3, 4}));
  // A second tuner that is given the file goes on from it.
  EXPECT_EQ(MixedBPWAutoTuner("", path).table().entries.size(), 2u);
  std::filesystem::remove_all(path.parent_path());
}

TEST(AutoTuner, LoadsWhatIsMeantForOtherDevices) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "another_device.json";
  const std::string text = MixedBPWAutoTuner("M4 Max").export_config(path);
  EXPECT_EQ(MixedBPWAutoTuner::load_config(path).device_family(), "M4");
  EXPECT_EQ(MixedBPWAutoTuner::load_config(path).table().to_json(), text);

  TunedTable table = MixedBPWAutoTuner().table();
  table.device.device_name = "a processor that this version has never heard of";
  table.save(path);
  const MixedBPWAutoTuner loaded = MixedBPWAutoTuner::load_config(path);
  EXPECT_EQ(loaded.device_name(), table.device.device_name);
  EXPECT_TRUE(loaded.select_kernel(4, 4096, {2}));
  std::filesystem::remove(path);
}

TEST(AutoTuner, ReadsTheDocumentsFormat) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "documents_format.json";
  std::ofstream(path) << R"json({"device_name": "M4 Max", "device_family": "M4",
    "tile_size_mapping": {"2": 128, "3": 96, "4": 64, "8": 64}, "simdgroup_mapping": {"2": 16, "3": 12, "4": 8, "8": 4},
    "lookup_table": {"4": {"4096": {"(2, 4)": {"kernel_name": "moe_trellis_mixed_swiglu_decode", "tile_size_m": 64,
      "tile_size_n": 64, "simdgroups": 12, "use_fp32_acc": false, "kernel_variant": "decode"}}}},
    "adaptation_enabled": true, "adaptation_history_len": 100, "benchmark_count": 250})json";
  const MixedBPWAutoTuner tuner = MixedBPWAutoTuner::load_config(path);
  EXPECT_EQ(tuner.device_family(), "M4");
  const KernelConfig expected{"moe_trellis_mixed_swiglu_decode", 64, 64, 12, false, "decode"};
  EXPECT_EQ(tuner.select_kernel(4, 4096, {2, 4}), expected);
  EXPECT_EQ(tuner.select_kernel(6, 4096, {4, 2}), expected);
  // The default of a width, by the mappings of the file.
  const KernelConfig two_bits{"moe_trellis_swiglu_prefill4", 128, 128, 16, false, "base"};
  EXPECT_EQ(tuner.select_kernel(4, 4096, {2}), two_bits);
  EXPECT_EQ(tuner.table().benchmark_count, 250);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace fairway::select
