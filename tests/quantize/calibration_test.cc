// Calibration on a small model: the same hidden states as a forward pass, and moments of what each matrix reads.
#include "quantize/calibration.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <set>

#include "common/machine.h"
#include "common/tiny_checkpoint.h"
#include "fairway/error.h"
#include "quantize/job.h"

namespace fairway::quantize {
namespace {

class Calibration : public testing::Test {
 protected:
  static test::TinySpec spec() {
    test::TinySpec spec;
    spec.hidden = 128;
    spec.experts = 6;
    spec.top_k = 2;
    spec.expert_intermediate = 96;
    return spec;
  }
  Calibration() : model_(load()), policy_(select::make_policy("", "", "")) {
    for (int i = 0; i < 150; ++i) ids_.push_back((37 * i + 11) % 256);
    options_.window = 64;  // the last one is shorter
  }
  model::Model load() {
    test::write_tiny_checkpoint(dir_.path(), spec(), test::TinyForm::kDequantizedF32);
    return model::Model::load(dir_.path());
  }
  // Runs the next layer and collects nothing.
  void advance(CalibrationState& state) const { state.advance(model_.read_layer(state.next_layer()).weights, nullptr); }

  test::TempDir dir_;
  test::Machine machine_;
  model::Model model_;
  select::Policy policy_;
  std::vector<int> ids_;
  CalibrationOptions options_;
};

TEST_F(Calibration, LayersOneByOneAreTheForwardPass) {
  CalibrationState state(model_, ids_, options_, policy_, machine_.context);
  ASSERT_EQ(state.windows(), 3);
  for (int l = 0; l < 2; ++l) advance(state);
  const int hidden = model_.config().hidden_size;
  for (int w = 0; w < 3; ++w) {
    const std::span<const int> ids = state.window_ids(w);
    model::KvCache cache(model_.config());
    moe::Counters counters;
    std::vector<float> expected;
    model_.forward(ids, cache, policy_, machine_.context, counters, expected);
    std::vector<float> got(state.window_state(w), state.window_state(w) + static_cast<std::ptrdiff_t>(expected.size()));
    model_.final_norm(got.data(), static_cast<int>(ids.size()), policy_, machine_.context, counters);
    EXPECT_EQ(got, expected) << w;
    EXPECT_EQ(ids.size(), expected.size() / static_cast<std::size_t>(hidden));
  }
}

TEST_F(Calibration, ExpertsSeeTheTokensThatAreRoutedToThem) {
  options_.min_rows = 0;
  CalibrationState state(model_, ids_, options_, policy_, machine_.context);
  advance(state);  // a dense layer
  const model::SourceLayer second = model_.read_layer(1);
  std::vector<InputSite> sites = layer_sites(model_.config(), second.weights, 1);
  // What the layer is given, from a forward pass that is watched directly.
  std::vector<std::vector<double>> sums(6, std::vector<double>(128 * 128));
  std::vector<std::int64_t> rows(6);
  for (int w = 0; w < state.windows(); ++w) {
    moe::Counters counters;
    counters.observer = [&](const moe::MoeLayerWeights& layer, const float* x, int m, int hidden,
                            std::span<const std::int32_t> chosen, std::span<const float> weights) {
      if (layer.experts.empty()) return;
      for (int t = 0; t < m; ++t) {
        for (int k = 0; k < 2; ++k) {
          const std::size_t e = static_cast<std::size_t>(chosen[static_cast<std::size_t>(2 * t + k)]);
          const double weight = weights[static_cast<std::size_t>(2 * t + k)];
          ++rows[e];
          for (int i = 0; i < hidden; ++i) {
            for (int j = 0; j < hidden; ++j) {
              sums[e][static_cast<std::size_t>(i * hidden + j)] +=
                  weight * weight * x[t * hidden + i] * static_cast<double>(x[t * hidden + j]);
            }
          }
        }
      }
    };
    model::KvCache cache(model_.config());
    std::vector<float> hidden;
    model_.forward(state.window_ids(w), cache, policy_, machine_.context, counters, hidden);
  }
  state.advance(second.weights, &sites);
  int experts = 0;
  for (const InputSite& site : sites) {
    EXPECT_FALSE(site.borrowed) << site.name;
    if (site.expert < 0) {
      EXPECT_EQ(site.rows, 150) << site.name;
      EXPECT_GT(site.moments.weight(), 0) << site.name;
      continue;
    }
    const std::size_t e = static_cast<std::size_t>(site.expert);
    EXPECT_EQ(site.rows, rows[e]) << site.name;
    if (site.matrices.front().part != SitePart::kGate) continue;
    ++experts;
    double largest = 1e-12;
    for (const double value : sums[e]) largest = std::max(largest, std::abs(value));
    for (std::size_t i = 0; i < sums[e].size(); ++i) {
      ASSERT_NEAR(site.moments.sum()[i], sums[e][i], 1e-4 * largest) << site.name << " " << i;
    }
  }
  EXPECT_EQ(experts, 6);
}

TEST_F(Calibration, ExpertsWithFewRowsBorrow) {
  options_.min_rows = 1000;
  CalibrationState state(model_, ids_, options_, policy_, machine_.context);
  advance(state);
  const model::SourceLayer layer = model_.read_layer(1);
  std::vector<InputSite> sites = layer_sites(model_.config(), layer.weights, 1);
  state.advance(layer.weights, &sites);
  for (const InputSite& site : sites) {
    EXPECT_EQ(site.borrowed, site.expert >= 0) << site.name;
    double trace = 0;
    for (int i = 0; i < site.moments.dim(); ++i) {
      trace += static_cast<double>(site.moments.sum()[static_cast<std::size_t>(i) * (site.moments.dim() + 1)]);
    }
    EXPECT_GT(trace, 0) << site.name;
  }
}

TEST_F(Calibration, SitesHaveEveryMatrixOnce) {
  std::multiset<std::string> found;
  for (int l = 0; l < 2; ++l) {
    const model::SourceLayer layer = model_.read_layer(l);
    for (const InputSite& site : layer_sites(model_.config(), layer.weights, l)) {
      for (const SiteMatrix& matrix : site.matrices) {
        found.insert(matrix.spec.prefix);
        EXPECT_EQ(matrix.weights->in, matrix.spec.in) << matrix.spec.prefix;
        EXPECT_EQ(matrix.weights->out, matrix.spec.out) << matrix.spec.prefix;
      }
    }
  }
  for (const InputSite& site : head_sites(model_)) found.insert(site.matrices.front().spec.prefix);
  const std::vector<std::string> expected = coded_prefixes(model_);
  EXPECT_EQ(found, std::multiset<std::string>(expected.begin(), expected.end()));
}

TEST_F(Calibration, RefusesIdsAndWindowsThatTheModelHasNoPlaceFor) {
  const auto make = [&](std::vector<int> ids) {
    CalibrationState state(model_, std::move(ids), options_, policy_, machine_.context);
  };
  EXPECT_THROW(make({}), Error);
  EXPECT_THROW(make({1, 320}), Error);
  EXPECT_THROW(make({-1}), Error);
  options_.window = 257;
  EXPECT_THROW(make({1, 2}), Error);
  options_.window = 64;
  const std::atomic<bool> cancel{true};
  options_.cancel = &cancel;
  CalibrationState state(model_, {1, 2}, options_, policy_, machine_.context);
  EXPECT_THROW(advance(state), Error);
}

}  // namespace
}  // namespace fairway::quantize
