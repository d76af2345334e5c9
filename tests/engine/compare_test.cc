// Divergences, agreement and layer errors against sums written out here, on small random models.
#include "engine/compare.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "backend/cpu/thread_pool.h"
#include "backend/cpu/workspace.h"
#include "common/tiny_checkpoint.h"
#include "fairway/error.h"

namespace fairway {
namespace {

using engine::Comparison;
using engine::Engine;

const std::vector<int> kIds{256, 72, 101, 108, 108, 111, 44, 32, 119, 111, 114, 108, 100};

// Changes the values of every F32 tensor of model.safetensors whose name contains `part`.
void change_tensors(const std::filesystem::path& dir, const std::string& part,
                    const std::function<float(float, std::size_t)>& change) {
  std::fstream file(dir / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  std::uint64_t header_bytes = 0;
  file.read(reinterpret_cast<char*>(&header_bytes), sizeof header_bytes);
  std::string header(header_bytes, ' ');
  file.read(header.data(), static_cast<std::streamsize>(header_bytes));
  const nlohmann::json tensors = nlohmann::json::parse(header);
  for (const auto& [name, tensor] : tensors.items()) {
    if (name.find(part) == std::string::npos) continue;
    ASSERT_EQ(tensor["dtype"], "F32");
    const auto begin = tensor["data_offsets"][0].get<std::size_t>(), end = tensor["data_offsets"][1].get<std::size_t>();
    std::vector<float> values((end - begin) / sizeof(float));
    const auto at = static_cast<std::streamoff>(8 + header_bytes + begin);
    file.seekg(at);
    file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(end - begin));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = change(values[i], i);
    file.seekp(at);
    file.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(end - begin));
  }
  ASSERT_TRUE(file.good());
}

float nudge(float value, std::size_t i) {
  return value * (1 + 0.2f * std::sin(static_cast<float>(i)));
}

class CompareTest : public testing::Test {
 protected:
  Engine load(const test::TempDir& dir, const test::TinySpec& spec = {}, const std::string& nudged = "") {
    write_tiny_checkpoint(dir.path(), spec, test::TinyForm::kDequantizedF32);
    if (!nudged.empty()) change_tensors(dir.path(), nudged, nudge);
    return open(dir);
  }
  static Engine open(const test::TempDir& dir) {
    engine::EngineOptions options;
    options.threads = 2;
    options.policy = select::make_policy("", "fp32", "");
    options.prefill_chunk = 5;  // so that a window has several chunks, the last one short
    return Engine::load(dir.path(), options);
  }

  test::TempDir a_, b_;
};

template <class Call>
void expect_error(ErrorKind kind, const std::vector<std::string>& parts, const Call& call) {
  try {
    call();
    FAIL() << "no error; expected one about " << parts.front();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    for (const std::string& part : parts) EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part;
  }
}

std::vector<double> probabilities(Engine& engine, std::size_t tokens) {
  const std::vector<float> logits = engine.last_logits(std::span(kIds).first(tokens));
  std::vector<double> p(logits.begin(), logits.end());
  double sum = 0;
  for (double& value : p) sum += value = std::exp(value);
  for (double& value : p) value /= sum;
  return p;
}

TEST_F(CompareTest, AModelIsNoDistanceFromItself) {
  Engine a = load(a_), b = open(a_);
  Comparison comparison(a, {&b});
  comparison.add_window(kIds, 12, true);
  comparison.add_window(kIds, 3, false);
  EXPECT_EQ(comparison.windows(), 2);
  EXPECT_EQ(comparison.tokens(), 15);
  EXPECT_EQ(comparison.evaluated(), 24);
  const auto& score = comparison.candidate(0);
  EXPECT_EQ(score.divergences, std::vector<float>(15, 0.0f));
  EXPECT_EQ(score.window_divergences, std::vector<double>(2, 0.0));
  EXPECT_EQ(score.same_top, 15);
  EXPECT_EQ(score.negative_log, comparison.reference().negative_log);
  EXPECT_EQ(score.layer_difference, std::vector<double>(2, 0.0));
  EXPECT_GT(score.layer_reference[0], 0);
  EXPECT_GT(score.seconds, 0);
  EXPECT_GT(comparison.reference().seconds, 0);
}

TEST_F(CompareTest, SumsAreThoseOfTheProbabilities) {
  Engine a = load(a_), b = load(b_, {}, "down_proj");
  Comparison comparison(a, {&b});
  comparison.add_window(kIds, 12, false);
  const auto& score = comparison.candidate(0);
  ASSERT_EQ(score.divergences.size(), 12u);
  double sum = 0, a_log = 0, b_log = 0;
  int same = 0;
  for (std::size_t i = 1; i < kIds.size(); ++i) {
    const auto p = probabilities(a, i), q = probabilities(b, i);
    double divergence = 0;
    for (std::size_t v = 0; v < p.size(); ++v) divergence += p[v] * std::log(p[v] / q[v]);
    EXPECT_NEAR(score.divergences[i - 1], divergence, 1e-4 + 1e-3 * divergence) << i;
    EXPECT_GT(divergence, 1e-3) << "the two models are too close for this test";
    sum += divergence;
    same += std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin();
    a_log -= std::log(p[static_cast<std::size_t>(kIds[i])]);
    b_log -= std::log(q[static_cast<std::size_t>(kIds[i])]);
  }
  EXPECT_NEAR(score.divergence_sum, sum, 1e-3 * sum);
  EXPECT_DOUBLE_EQ(score.window_divergences[0], score.divergence_sum / 12);
  EXPECT_EQ(score.same_top, same);
  EXPECT_LT(same, 12) << "the two models are too close for this test";
  EXPECT_NEAR(comparison.reference().negative_log, a_log, 1e-3);
  EXPECT_NEAR(score.negative_log, b_log, 1e-3);
}

TEST_F(CompareTest, OnlyTheLastPredictionsCount) {
  Engine a = load(a_), b = load(b_, {}, "down_proj");
  Comparison all(a, {&b}), last(a, {&b});
  all.add_window(kIds, 12, false);
  last.add_window(kIds, 4, false);
  const auto& expected = all.candidate(0).divergences;
  EXPECT_EQ(last.candidate(0).divergences, std::vector<float>(expected.end() - 4, expected.end()));
  EXPECT_EQ(last.tokens(), 4);
  const auto logprobs = b.logprobs(kIds);
  double negative_log = 0;
  for (std::size_t i = 8; i < 12; ++i) negative_log -= static_cast<double>(logprobs[i]);
  EXPECT_NEAR(last.candidate(0).negative_log, negative_log, 1e-5);
}

TEST_F(CompareTest, SeveralCandidatesAreAsOneByOne) {
  test::TempDir c_;
  Engine a = load(a_), b = load(b_, {}, "down_proj"), c = load(c_, {}, "o_proj");
  Comparison both(a, {&b, &c}), first(a, {&b}), second(a, {&c});
  for (Comparison* comparison : {&both, &first, &second}) comparison->add_window(kIds, 12, true);
  EXPECT_EQ(both.candidate(0).divergences, first.candidate(0).divergences);
  EXPECT_EQ(both.candidate(1).divergences, second.candidate(0).divergences);
  EXPECT_EQ(both.candidate(1).layer_difference, second.candidate(0).layer_difference);
  EXPECT_NE(both.candidate(0).divergences, both.candidate(1).divergences);
}

// The states of all positions after each layer, out of one forward pass.
std::vector<std::vector<float>> layer_states(const Engine& engine) {
  backend::ThreadPool pool(1);
  backend::Workspace workspace;
  kernels::KernelContext context{pool, workspace};
  moe::Counters counters;
  std::vector<std::vector<float>> states;
  counters.layer_observer = [&](int layer, const float* x, int m, int hidden) {
    EXPECT_EQ(layer, static_cast<int>(states.size()));
    states.emplace_back(x, x + m * hidden);
  };
  model::KvCache cache(engine.model().config());
  std::vector<float> hidden;
  engine.model().forward(std::span(kIds).first(kIds.size() - 1), cache, select::make_policy("", "fp32", ""), context,
                         counters, hidden);
  return states;
}

TEST_F(CompareTest, LayerErrorsAreThoseOfTheHiddenStates) {
  Engine a = load(a_), b = load(b_, {}, "layers.1.mlp.shared_experts.down_proj");
  Comparison comparison(a, {&b});
  comparison.add_window(kIds, 12, true);
  comparison.add_window(kIds, 12, false);
  const auto expected = layer_states(a), other = layer_states(b);
  ASSERT_EQ(expected.size(), 2u);
  const auto& score = comparison.candidate(0);
  for (std::size_t l = 0; l < 2; ++l) {
    double difference = 0, reference = 0;
    ASSERT_EQ(expected[l].size(), 12u * 256);
    for (std::size_t i = 0; i < expected[l].size(); ++i) {
      difference += std::pow(static_cast<double>(other[l][i]) - static_cast<double>(expected[l][i]), 2);
      reference += std::pow(static_cast<double>(expected[l][i]), 2);
    }
    EXPECT_NEAR(score.layer_difference[l], difference, 1e-3 * difference) << l;
    EXPECT_NEAR(score.layer_reference[l], reference, 1e-3 * reference) << l;
  }
  EXPECT_EQ(score.layer_difference[0], 0) << "only the second layer was changed";
  EXPECT_GT(score.layer_difference[1], 0);
}

TEST_F(CompareTest, LayersOfOtherShapesAreNotCompared) {
  test::TinySpec deeper;
  deeper.layers = 3;
  Engine a = load(a_), b = load(b_, deeper);
  Comparison comparison(a, {&b});
  EXPECT_FALSE(comparison.has_comparable_layers(0));
  comparison.add_window(kIds, 12, true);
  EXPECT_TRUE(comparison.candidate(0).layer_difference.empty());
  EXPECT_EQ(comparison.candidate(0).divergences.size(), 12u);
}

TEST_F(CompareTest, ErrorsNameTheModels) {
  test::TinySpec larger;
  larger.vocab = 384;
  Engine a = load(a_), b = load(b_, larger);
  expect_error(ErrorKind::kBadInput, {a_.path().string(), b_.path().string(), "320", "384"},
               [&] { Comparison(a, {&b}); });

  write_tiny_checkpoint(b_.path(), {}, test::TinyForm::kDequantizedF32);
  change_tensors(b_.path(), "lm_head",
                 [](float value, std::size_t i) { return i == 1000 ? std::numeric_limits<float>::infinity() : value; });
  Engine damaged = open(b_);
  Comparison comparison(a, {&damaged});
  expect_error(ErrorKind::kBadInput, {b_.path().string(), "window 0"}, [&] { comparison.add_window(kIds, 12, false); });
  EXPECT_EQ(comparison.windows(), 0);
  Comparison backwards(damaged, {&a});
  expect_error(ErrorKind::kBadInput, {b_.path().string()}, [&] { backwards.add_window(kIds, 12, false); });
  for (const std::int64_t counted : {0, 13}) {
    expect_error(ErrorKind::kUsage, {std::to_string(counted)}, [&] { comparison.add_window(kIds, counted, false); });
  }
}

TEST_F(CompareTest, ACancelledWindowAddsNothing) {
  Engine a = load(a_), b = load(b_, {}, "down_proj");
  Comparison comparison(a, {&b});
  const std::atomic<bool> cancel{true};
  expect_error(ErrorKind::kCancelled, {"cancelled"}, [&] { comparison.add_window(kIds, 12, true, &cancel); });
  EXPECT_EQ(comparison.windows(), 0);
  EXPECT_EQ(comparison.tokens(), 0);
  EXPECT_EQ(comparison.candidate(0).divergence_sum, 0);
  EXPECT_EQ(comparison.reference().seconds, 0);
  comparison.add_window(kIds, 12, false);  // no observer was left behind
  EXPECT_TRUE(comparison.candidate(0).layer_difference.empty());
}

TEST(Quantile, IsTheSmallestSampleThatCoversTheShare) {
  std::vector<float> samples;
  for (int i = 100; i >= 1; --i) samples.push_back(static_cast<float>(i));
  EXPECT_EQ(engine::quantile(samples, 0.99), 99);
  EXPECT_EQ(engine::quantile(samples, 0.991), 100);
  EXPECT_EQ(engine::quantile(samples, 0.5), 50);
  EXPECT_EQ(engine::quantile(samples, 1.0), 100);
  EXPECT_EQ(engine::quantile(std::vector<float>{7}, 0.01), 7);
}

}  // namespace
}  // namespace fairway
