// The MoE layer against its formula in double on dequantized weights: every backend, both routers, mixed widths.
#include "moe/layer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "common/compare.h"
#include "common/policies.h"
#include "common/random_trellis.h"
#include "common/tiny_checkpoint.h"

namespace fairway {
namespace {

using kernels::BitTuple;
using kernels::ExpertWeights;
using moe::MoeLayerWeights;

constexpr int kHidden = 256;
constexpr int kIntermediate = 192;  // stored padded to 256
constexpr int kSharedIntermediate = 320;
constexpr int kExperts = 11;
constexpr int kTopK = 3;

// An expert in trellis form, in dense f32 form, and as [out, in] matrices for the formula.
struct TestExpert {
  TestExpert(int intermediate, BitTuple bits, bool mixed_codebooks, test::Random& random)
      : gate_codes(kHidden, intermediate, bits.gate, codec::Codebook::kMul1, random),
        up_codes(kHidden, intermediate, bits.up, mixed_codebooks ? codec::Codebook::kMcg : codec::Codebook::kMul1,
                 random),
        down_codes(intermediate, kHidden, bits.down, mixed_codebooks ? codec::Codebook::k3inst : codec::Codebook::kMul1,
                   random),
        gate(gate_codes.dequantized()),
        up(up_codes.dequantized()),
        down(down_codes.dequantized()) {}

  ExpertWeights trellis() const { return {gate_codes.view(), up_codes.view(), down_codes.view()}; }
  ExpertWeights dense() const {
    return {dense_view(gate, gate_codes), dense_view(up, up_codes), dense_view(down, down_codes)};
  }

  static kernels::LinearWeights dense_view(const std::vector<float>& values, const test::RandomTrellis& shape) {
    const auto* data = reinterpret_cast<const std::uint8_t*>(values.data());
    return {shape.in, shape.out, kernels::DenseMatrix{data, kernels::DenseType::kF32, shape.in, shape.out, nullptr}};
  }

  test::RandomTrellis gate_codes, up_codes, down_codes;
  std::vector<float> gate, up, down;
};

struct LayerOptions {
  kernels::RouteKind route = kernels::RouteKind::kSigmoidBiasTopK;
  int experts = kExperts;
  int always_on = 1;
  bool mixed_codebooks = false;
  bool hide_some_experts = false;  // a bias that keeps the odd experts from ever being chosen
};

// Weights that own their storage, and the layer in both forms.
struct TestLayer {
  TestLayer(const LayerOptions& options, std::uint64_t seed) {
    test::Random random(seed);
    router = random.normals(static_cast<std::size_t>(options.experts) * kHidden, 1.0f / std::sqrt(1.0f * kHidden));
    if (options.route == kernels::RouteKind::kSigmoidBiasTopK) {
      bias = random.normals(static_cast<std::size_t>(options.experts), 0.1f);
      for (int e = 1; options.hide_some_experts && e < options.experts; e += 2) bias[static_cast<std::size_t>(e)] = -9;
    }
    for (int e = 0; e < options.experts; ++e) {
      experts.push_back(
          std::make_unique<TestExpert>(kIntermediate, test::different_bits(0, e), options.mixed_codebooks, random));
    }
    for (int s = 0; s < options.always_on; ++s) {
      always_on.push_back(
          std::make_unique<TestExpert>(kSharedIntermediate, BitTuple{3, 3, 3}, options.mixed_codebooks, random));
    }
    route = {options.route, options.experts, kTopK, true, 1.8f, nullptr};
  }

  MoeLayerWeights weights(bool trellis) const {
    MoeLayerWeights layer;
    const auto* data = reinterpret_cast<const std::uint8_t*>(router.data());
    const kernels::DenseMatrix matrix{data, kernels::DenseType::kF32, kHidden, route.experts, nullptr};
    layer.router = {kHidden, route.experts, matrix};
    layer.selection_bias = bias;
    for (const auto& e : experts) layer.experts.push_back(trellis ? e->trellis() : e->dense());
    for (const auto& e : always_on) layer.always_on.push_back(trellis ? e->trellis() : e->dense());
    layer.route = route;
    layer.describe(kHidden);
    return layer;
  }

  std::vector<float> router, bias;
  std::vector<std::unique_ptr<TestExpert>> experts, always_on;
  kernels::RouteParams route;
};

double dot(const float* weights, const double* x, int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += static_cast<double>(weights[i]) * x[i];
  return sum;
}

void add_expert(const TestExpert& expert, const double* x, double weight, double* y) {
  const int width = expert.gate_codes.out;
  std::vector<double> inner(static_cast<std::size_t>(width));
  for (int i = 0; i < width; ++i) {
    const double gate = dot(&expert.gate[static_cast<std::size_t>(i) * kHidden], x, kHidden);
    const double up = dot(&expert.up[static_cast<std::size_t>(i) * kHidden], x, kHidden);
    inner[static_cast<std::size_t>(i)] = gate / (1 + std::exp(-gate)) * up;
  }
  for (int i = 0; i < kHidden; ++i) {
    y[i] += weight * dot(&expert.down[static_cast<std::size_t>(i) * width], inner.data(), width);
  }
}

// y + layer(x), token by token and expert by expert, in double. Only the choice is shared with the code under test.
std::vector<float> expected_output(const TestLayer& layer, const std::vector<float>& x, int m,
                                   const std::vector<float>& y) {
  std::vector<float> result;
  for (int t = 0; t < m; ++t) {
    const std::vector<double> row(x.begin() + t * kHidden, x.begin() + (t + 1) * kHidden);
    std::vector<double> out(y.begin() + t * kHidden, y.begin() + (t + 1) * kHidden);
    if (!layer.experts.empty()) {
      std::vector<float> logits;
      for (int e = 0; e < layer.route.experts; ++e) {
        logits.push_back(
            static_cast<float>(dot(&layer.router[static_cast<std::size_t>(e) * kHidden], row.data(), kHidden)));
      }
      kernels::RouteParams params = layer.route;
      params.selection_bias = layer.bias.empty() ? nullptr : layer.bias.data();
      std::int32_t ids[kTopK];
      float weights[kTopK];
      kernels::route(logits.data(), 1, params, ids, weights);
      for (int k = 0; k < kTopK; ++k)
        add_expert(*layer.experts[static_cast<std::size_t>(ids[k])], row.data(), weights[k], out.data());
    }
    for (const auto& expert : layer.always_on) add_expert(*expert, row.data(), 1.0, out.data());
    for (const double value : out) result.push_back(static_cast<float>(value));
  }
  return result;
}

struct LayerRun {
  std::vector<float> y;
  moe::Counters counters;
};

LayerRun run_layer(const MoeLayerWeights& layer, const std::vector<float>& x, int m, const std::vector<float>& y,
                   const select::Policy& policy, int threads) {
  backend::ThreadPool pool(threads);
  backend::Workspace workspace;
  kernels::KernelContext context{pool, workspace};
  moe::MoeScratch scratch;
  LayerRun run{y, {}};
  moe_forward(layer, x.data(), m, kHidden, run.y.data(), policy, context, scratch, run.counters);
  return run;
}

// fp32 rows: a few hundred rounding steps of 2^-24 on values of order one. int8 rows: activations rounded to 1/127 of
// the largest of a block, twice, which is about one percent of a row's norm.
constexpr test::Bound kFp32Bound{.absolute = 2e-4, .relative = 0, .row_relative = 2e-5};
constexpr test::Bound kInt8Bound{.absolute = 1.0, .relative = 0, .row_relative = 0.03};

void check(const LayerOptions& options, const select::Policy& policy, bool trellis, const test::Bound& bound) {
  const std::uint64_t seed = 20;
  const TestLayer layer(options, seed);
  const MoeLayerWeights weights = layer.weights(trellis);
  for (const int m : {0, 1, 5, 40}) {
    SCOPED_TRACE(fmt::format("seed {} m {} on {} trellis {}", seed, m, test::describe(policy), trellis));
    test::Random random(100 + static_cast<std::uint64_t>(m));
    const auto x = random.normals(static_cast<std::size_t>(m) * kHidden);
    const auto y = random.normals(static_cast<std::size_t>(m) * kHidden);
    const LayerRun run = run_layer(weights, x, m, y, policy, 2);
    EXPECT_EQ(test::compare(expected_output(layer, x, m, y), run.y, kHidden, bound), "");
  }
}

TEST(MoeLayer, MixedWidthsMatchTheFormulaOnEveryBackend) {
  for (const auto& policy : test::fp32_policies()) {
    check({}, policy, true, kFp32Bound);
    check({.route = kernels::RouteKind::kSoftmaxTopK, .always_on = 0}, policy, true, kFp32Bound);
  }
}

TEST(MoeLayer, MixedCodebooksMatchTheFormulaOnEveryBackend) {
  for (const auto& policy : test::fp32_policies()) check({.mixed_codebooks = true}, policy, true, kFp32Bound);
}

TEST(MoeLayer, DenseExpertsMatchTheFormulaOnEveryBackend) {
  for (const auto& policy : test::fp32_policies()) check({}, policy, false, kFp32Bound);
}

TEST(MoeLayer, Int8ActivationsStayWithinTheirBound) {
  check({}, select::make_policy("", "auto", ""), true, kInt8Bound);
}

TEST(MoeLayer, LayerWithoutRoutedExpertsIsADenseMlp) {
  for (const auto& policy : test::fp32_policies()) {
    check({.experts = 0, .always_on = 1}, policy, true, kFp32Bound);
    check({.experts = 0, .always_on = 2}, policy, false, kFp32Bound);
  }
}

TEST(MoeLayer, ExpertsWithoutTokensAreLeftOut) {
  const LayerOptions options{.hide_some_experts = true};
  check(options, select::make_policy("", "fp32", ""), true, kFp32Bound);
  const TestLayer layer(options, 20);
  test::Random random(7);
  const auto x = random.normals(40 * kHidden);
  const LayerRun run =
      run_layer(layer.weights(true), x, 40, std::vector<float>(x.size()), select::make_policy("", "", ""), 2);
  EXPECT_LE(run.counters.expert_groups, 6u + 1u);  // the six even experts and the shared one
  EXPECT_GE(run.counters.expert_groups, 3u + 1u);
}

TEST(MoeLayer, SameBitsForAnyNumberOfThreads) {
  const TestLayer layer({}, 21);
  const MoeLayerWeights weights = layer.weights(true);
  for (const char* activations : {"auto", "fp32"}) {
    const select::Policy policy = select::make_policy("", activations, "");
    for (const int m : {1, 5, 40}) {
      test::Random random(static_cast<std::uint64_t>(m));
      const auto x = random.normals(static_cast<std::size_t>(m) * kHidden);
      const std::vector<float> zero(x.size());
      const LayerRun one = run_layer(weights, x, m, zero, policy, 1);
      for (const int threads : {2, 3}) {
        const LayerRun more = run_layer(weights, x, m, zero, policy, threads);
        EXPECT_EQ(test::compare_exact(one.y, more.y), "") << activations << " m " << m << " threads " << threads;
      }
    }
  }
}

TEST(MoeLayer, CountersShowOneGroupedCallPerRow) {
  const TestLayer layer({}, 22);
  test::Random random(3);
  const auto x = random.normals(kHidden);
  const LayerRun run =
      run_layer(layer.weights(true), x, 1, std::vector<float>(kHidden), select::make_policy("", "", ""), 1);
  // One token: top_k experts of different widths and the shared expert, all with m = 1, so one row serves all.
  EXPECT_EQ(run.counters.grouped_calls, 1u);
  EXPECT_EQ(run.counters.expert_groups, static_cast<std::uint64_t>(kTopK) + 1);
  EXPECT_EQ(run.counters.bit_tuples, static_cast<std::uint64_t>(kTopK) + 1);
  EXPECT_EQ(run.counters.fallback_calls(), 0u);
  std::uint64_t moe_calls = 0;
  for (const auto& [row, calls] : run.counters.kernels) {
    if (std::string(row->op) == "moe_swiglu") moe_calls += calls;
  }
  EXPECT_EQ(moe_calls, run.counters.grouped_calls);
}

std::string family_of_only_moe_row(const moe::Counters& counters) {
  std::string family;
  for (const auto& [row, calls] : counters.kernels) {
    if (std::string(row->op) != "moe_swiglu") continue;
    if (!family.empty()) return "several rows";
    family = row->family;
  }
  return family;
}

// Experts with 1 to 40 tokens each: every one of them alone would get another row.
TEST(MoeLayer, ExpertsOfDifferentSizesShareOneCall) {
  const TestLayer layer({}, 24);
  const MoeLayerWeights weights = layer.weights(true);
  test::Random random(5);
  const auto x = random.normals(40 * kHidden);
  const std::vector<float> zero(x.size());
  for (const std::string& name : test::backends_here()) {
    SCOPED_TRACE(name);
    const bool vector = name != "cpu_ref";
    const LayerRun run = run_layer(weights, x, 40, zero, select::make_policy(name, "fp32", ""), 2);
    EXPECT_EQ(run.counters.grouped_calls, 1u);
    EXPECT_EQ(family_of_only_moe_row(run.counters), vector ? "moe_trellis_swiglu_grouped_fp32acc" : "mixed_bpw_kernel");
    if (!vector) continue;
    // The rows that the experts would get one by one give the same bits.
    const auto forced = select::make_policy(name, "fp32", "moe_trellis_swiglu_prefill4_fp32acc");
    const LayerRun other = run_layer(weights, x, 40, zero, forced, 2);
    EXPECT_EQ(family_of_only_moe_row(other.counters), "moe_trellis_swiglu_prefill4_fp32acc");
    EXPECT_EQ(test::compare_exact(run.y, other.y), "");
  }
}

// Experts of one size keep the row that is meant for it.
TEST(MoeLayer, ExpertsOfOneSizeKeepTheirRow) {
  const TestLayer layer({.experts = 0, .always_on = 2}, 25);
  const MoeLayerWeights weights = layer.weights(true);
  const struct {
    int m;
    const char* family;
  } cases[] = {{1, "moe_trellis_swiglu_decode_fp32acc"},
               {3, "moe_trellis_swiglu_prefill4_fp32acc"},
               {20, "moe_trellis_swiglu_fp32acc"},
               {40, "moe_trellis_swiglu_large_batch_fp32acc"}};
  for (const std::string& name : test::backends_here()) {
    if (name == "cpu_ref") continue;
    for (const auto& c : cases) {
      const std::vector<float> x(static_cast<std::size_t>(c.m) * kHidden, 1.0f);
      const LayerRun run =
          run_layer(weights, x, c.m, std::vector<float>(x.size()), select::make_policy(name, "fp32", ""), 1);
      EXPECT_EQ(family_of_only_moe_row(run.counters), c.family) << name << " m " << c.m;
    }
  }
}

// A dense expert cannot join the others, and a codebook without int8 rows takes all trellis experts to the row that
// reads every codebook, which counts as a fallback.
TEST(MoeLayer, OneRowReadsAllCodebooksOfALayer) {
  const TestLayer layer({}, 26), mcg({.mixed_codebooks = true}, 27);
  MoeLayerWeights weights = layer.weights(true);
  weights.always_on = {layer.always_on[0]->dense(), mcg.always_on[0]->trellis()};
  weights.describe(kHidden);
  test::Random random(6);
  const auto x = random.normals(12 * kHidden);
  const auto policy = select::make_policy("", "", "");
  const LayerRun run = run_layer(weights, x, 12, std::vector<float>(x.size()), policy, 2);
  EXPECT_EQ(run.counters.grouped_calls, 2u);
  EXPECT_EQ(run.counters.fallback_calls(), 1u);
}

// A row that fails for one bit tuple loses the experts of that tuple, and no others.
TEST(MoeLayer, ARefusedTupleFallsBackAlone) {
  const TestLayer layer({}, 28);
  const MoeLayerWeights weights = layer.weights(true);
  test::Random random(9);
  const auto x = random.normals(40 * kHidden);
  const std::vector<float> zero(x.size());
  auto policy = select::make_policy("", "fp32", "");
  const LayerRun whole = run_layer(weights, x, 40, zero, policy, 2);
  if (policy.features == 0) {
    EXPECT_EQ(family_of_only_moe_row(whole.counters), "mixed_bpw_kernel");
    return;
  }
  attach_selector(policy, 2);
  const BitTuple refused = weights.experts[2].bits();
  policy.selector->refuse("moe_trellis_swiglu_grouped_fp32acc", refused);
  const LayerRun run = run_layer(weights, x, 40, zero, policy, 2);
  EXPECT_EQ(run.counters.grouped_calls, 2u);
  EXPECT_EQ(run.counters.fallbacks[static_cast<std::size_t>(select::Fallback::kRefusedTuple)], 1u);
  EXPECT_EQ(run.counters.expert_groups, whole.counters.expert_groups);
  EXPECT_EQ(test::compare_exact(whole.y, run.y), "");  // fp32 rows are consistent
}

TEST(MoeLayer, ReusedScratchGivesTheSameResultAndKeepsItsMemory) {
  const TestLayer layer({}, 23);
  const MoeLayerWeights weights = layer.weights(true);
  const select::Policy policy = select::make_policy("", "", "");
  backend::ThreadPool pool(2);
  backend::Workspace workspace;
  kernels::KernelContext context{pool, workspace};
  moe::MoeScratch scratch;
  moe::Counters counters;
  test::Random random(4);
  const auto x = random.normals(40 * kHidden);
  std::vector<float> first(x.size()), second(x.size()), few(5 * kHidden);
  moe_forward(weights, x.data(), 40, kHidden, first.data(), policy, context, scratch, counters);
  const std::size_t reserved = workspace.reserved_bytes();
  const std::size_t choices = scratch.choices.capacity();
  moe_forward(weights, x.data(), 5, kHidden, few.data(), policy, context, scratch, counters);
  moe_forward(weights, x.data(), 40, kHidden, second.data(), policy, context, scratch, counters);
  EXPECT_EQ(test::compare_exact(first, second), "");
  EXPECT_EQ(workspace.reserved_bytes(), reserved);
  EXPECT_EQ(scratch.choices.capacity(), choices);
}

}  // namespace
}  // namespace fairway
