// Candidates for single matrices, the verdict on them, the nearest entry, and the table as JSON.
#include "select/linear_tuner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "codec/packing.h"
#include "common/random_trellis.h"
#include "fairway/error.h"

namespace fairway::select {
namespace {

constexpr int kIn = 200, kOut = 130, kBits = 3;

struct Problem {
  explicit Problem(codec::Codebook codebook = codec::Codebook::kMul1)
      : trellis(kIn, kOut, kBits, codebook, random), linear(trellis.view()) {}

  test::Random random{7};
  test::RandomTrellis trellis;
  kernels::LinearWeights linear;
  backend::ThreadPool pool{2};
  backend::Workspace workspace;
  kernels::KernelContext context{pool, workspace};
};

TuneOptions options(int iterations = 4) {
  TuneOptions options;
  options.warmup = 1;
  options.iterations = iterations;
  options.policy = make_policy("", "", "");
  return options;
}

ErrorKind kind_of(const auto& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.kind();
  }
  ADD_FAILURE() << "no error was thrown";
  return ErrorKind::kCancelled;
}

TEST(LinearTuner, CandidatesStartWithTheDefaultAndReadTheCodebook) {
  for (const codec::Codebook codebook : {codec::Codebook::k3inst, codec::Codebook::kMcg, codec::Codebook::kMul1}) {
    SCOPED_TRACE(codec::codebook_name(codebook));
    Problem problem(codebook);
    const Policy policy = make_policy("", "", "");
    const auto candidates = linear_candidates(policy, problem.linear.trellis(), 4);
    ASSERT_FALSE(candidates.empty());
    EXPECT_EQ(candidates.front(), default_linear(policy, problem.linear.trellis(), 4));
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      const kernels::KernelRow& row = candidates[i].row->info;
      EXPECT_TRUE(row.codebooks & kernels::codebook_bit(codebook)) << row.id;
      EXPECT_EQ(row.activations, candidates.front().row->info.activations) << row.id;
      EXPECT_EQ(linear_candidate_of(config_of(candidates[i])), candidates[i]);
      EXPECT_EQ(std::count(candidates.begin(), candidates.end(), candidates[i]), 1) << row.id;
    }
  }
}

TEST(LinearTuner, APolicyNarrowsTheCandidates) {
  Problem problem;
  const auto candidates = linear_candidates(make_policy("cpu_ref", "", ""), problem.linear.trellis(), 4);
  ASSERT_EQ(candidates.size(), 1u);
  EXPECT_STREQ(candidates.front().row->info.id, "cpu_ref/trellis_linear");
}

TEST(LinearTuner, MeasuresTheDefaultWithWhatWasAskedFor) {
  Problem problem;
  LinearTuner tuner;
  const KernelConfig reference{"cpu_ref/trellis_linear"};
  const auto results = tuner.benchmark(problem.linear, 3, {reference}, options(5), problem.context);
  const KernelConfig first = config_of(default_linear(options().policy, problem.linear.trellis(), 3));
  ASSERT_EQ(results.size(), first == reference ? 1u : 2u);
  EXPECT_LE(results.front().latency_ms, results.back().latency_ms);
  for (const BenchmarkResult& result : results) {
    EXPECT_EQ(result.samples_ms.size(), 5u);
    // Padded to 256 x 256 weights of 3 bits.
    EXPECT_DOUBLE_EQ(result.memory_footprint_mb, 256 * 256 * kBits / 8 / 1e6);
    EXPECT_NEAR(result.throughput_gbps, result.memory_footprint_mb / result.latency_ms, 1e-9);
  }
  const auto entries = tuner.entries();
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].fallback, first);
  EXPECT_EQ(entries[0].call, (LinearCall{3, 2, kIn, kOut, kBits, "mul1"}));
}

TEST(LinearTuner, ASecondMeasurementReplacesTheFirst) {
  Problem problem;
  LinearTuner tuner;
  tuner.benchmark(problem.linear, 3, {}, options(2), problem.context);
  tuner.benchmark(problem.linear, 3, {}, options(4), problem.context);
  ASSERT_EQ(tuner.entries().size(), 1u);
  EXPECT_EQ(tuner.entries()[0].measured[0].samples_ms.size(), 4u);
}

TEST(LinearTuner, CancelledBeforeAWholeRoundThereIsNoResult) {
  Problem problem;
  LinearTuner tuner;
  std::atomic<bool> cancel{true};
  TuneOptions cancelled = options();
  cancelled.cancel = &cancel;
  EXPECT_TRUE(tuner.benchmark(problem.linear, 3, {}, cancelled, problem.context).empty());
  EXPECT_TRUE(tuner.entries().empty());

  cancel = false;  // after two counted rounds
  cancelled.progress = [&](int done, int, const std::string&) { cancel = done == 3; };
  const auto results = tuner.benchmark(problem.linear, 3, {}, cancelled, problem.context);
  ASSERT_FALSE(results.empty());
  for (const BenchmarkResult& result : results) EXPECT_EQ(result.samples_ms.size(), 2u);
}

std::string entry_json(int tokens, const std::string& kernel) {
  const std::string config = R"({"kernel_name": ")" + kernel +
                             R"(", "tile_size_m": 0, "tile_size_n": 0, "simdgroups": 0,
                                "use_fp32_acc": true, "kernel_variant": "base"})";
  return R"({"tokens": )" + std::to_string(tokens) + R"(, "threads": 2, "in": 200, "out": 130, "bits": 3,
             "codebook": "mul1", "measured": [], "best": )" +
         config + R"(, "default": )" + config + "}";
}

TEST(LinearTuner, FindsTheNearestTokensWithinAFactorOfTwo) {
  LinearTuner tuner;
  tuner.add_json("[" + entry_json(4, "cpu_ref/trellis_linear") + "," + entry_json(12, "cpu_ref/trellis_linear") + "]",
                 "test");
  const auto tokens_for = [&](LinearCall call) {
    const auto found = tuner.find(call);
    return found ? found->call.tokens : 0;
  };
  const LinearCall call{1, 2, kIn, kOut, kBits, "mul1"};
  const auto at = [&](int tokens) {
    LinearCall changed = call;
    changed.tokens = tokens;
    return tokens_for(changed);
  };
  EXPECT_EQ(at(1), 0);
  EXPECT_EQ(at(2), 4);
  EXPECT_EQ(at(6), 4);   // 1.5 and 2
  EXPECT_EQ(at(7), 12);  // 1.75 and 1.71
  EXPECT_EQ(at(24), 12);
  EXPECT_EQ(at(25), 0);
  EXPECT_EQ(at(0), 0);
  for (const LinearCall& other :
       {LinearCall{4, 1, kIn, kOut, kBits, "mul1"}, LinearCall{4, 2, kIn + 1, kOut, kBits, "mul1"},
        LinearCall{4, 2, kIn, kOut + 1, kBits, "mul1"}, LinearCall{4, 2, kIn, kOut, 4, "mul1"},
        LinearCall{4, 2, kIn, kOut, kBits, "mcg"}}) {
    EXPECT_EQ(tokens_for(other), 0);
  }
}

TEST(LinearTuner, JsonRoundTrip) {
  Problem problem;
  LinearTuner tuner, copy;
  tuner.benchmark(problem.linear, 3, {}, options(), problem.context);
  tuner.benchmark(problem.linear, 5, {}, options(), problem.context);
  copy.add_json(tuner.to_json(), "test");
  EXPECT_EQ(copy.to_json(), tuner.to_json());
  EXPECT_EQ(copy.entries().size(), 2u);
}

TEST(LinearTuner, DamagedJsonAddsNothing) {
  const std::string good = entry_json(4, "cpu_ref/trellis_linear");
  for (const std::string& bad : {std::string("["), std::string("{\"tokens\": 1}"), "[" + good + ", 7]",
                                 "[" + good + ", {}]", "[" + good + "," + entry_json(0, "cpu_ref/trellis_linear") + "]",
                                 "[" + entry_json(4, "cpu_ref/no_such") + "]"}) {
    LinearTuner tuner;
    EXPECT_EQ(kind_of([&] { tuner.add_json(bad, "some.json"); }), ErrorKind::kBadInput) << bad;
    EXPECT_TRUE(tuner.entries().empty()) << bad;
  }
}

TEST(LinearTuner, WrongUse) {
  Problem problem;
  LinearTuner tuner;
  const auto measure = [&](int batch, int iterations, std::vector<KernelConfig> configs) {
    tuner.benchmark(problem.linear, batch, configs, options(iterations), problem.context);
  };
  EXPECT_EQ(kind_of([&] { measure(0, 1, {}); }), ErrorKind::kUsage);
  EXPECT_EQ(kind_of([&] { measure(1, 0, {}); }), ErrorKind::kUsage);
  EXPECT_EQ(kind_of([&] { measure(1, 1, {{"no_such"}}); }), ErrorKind::kUsage);
  EXPECT_EQ(kind_of([&] { measure(1, 1, {{"cpu_ref/trellis_linear", 16, 64, 1}}); }), ErrorKind::kUsage);
  kernels::LinearWeights plain;
  EXPECT_EQ(kind_of([&] { tuner.benchmark(plain, 1, {}, options(), problem.context); }), ErrorKind::kUsage);
  Problem other(codec::Codebook::kMcg);
  for (const kernels::TrellisLinearRow& row : kernels::trellis_linear_rows()) {
    if (row.info.codebooks & kernels::codebook_bit(codec::Codebook::kMcg)) continue;
    std::vector<float> x(kIn), y(kOut);
    EXPECT_EQ(kind_of([&] {
                run_linear({&row, row.info.tile}, other.linear, x.data(), 1, y.data(), other.context);
              }),
              ErrorKind::kUsage)
        << row.info.id;
  }
}

}  // namespace
}  // namespace fairway::select
