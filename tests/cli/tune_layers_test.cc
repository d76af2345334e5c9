// What is recorded from a model for tuning, and what stands in for it without one.
#include "cli/tune_layers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "cli/process.h"
#include "fairway/error.h"

namespace fairway::test {
namespace {

struct Workers {
  backend::ThreadPool pool{2};
  backend::Workspace workspace;
  kernels::KernelContext context{pool, workspace};
};

TEST(TuneLayers, AModelsHiddenStatesAndRouting) {
  constexpr int kTokens = 40;
  Workers workers;
  cli::LayerOptions options;
  options.model = kModel;
  const cli::TuneLayers tune(options, "", kTokens, workers.context);
  ASSERT_GT(tune.layers().size(), 1u);
  for (const select::TuneLayer& layer : tune.layers()) {
    ASSERT_EQ(layer.inputs.size(), static_cast<std::size_t>(kTokens * layer.traits.hidden));
    double squares = 0;
    for (const float value : layer.inputs) {
      ASSERT_TRUE(std::isfinite(value));
      squares += static_cast<double>(value) * value;
    }
    EXPECT_GT(squares, 0);
    ASSERT_EQ(layer.expert_shares.size(), layer.experts->size());
    const double assignments = std::accumulate(layer.expert_shares.begin(), layer.expert_shares.end(), 0.0);
    EXPECT_EQ(assignments, kTokens * layer.traits.top_k);
  }
  EXPECT_NE(tune.layers()[0].inputs, tune.layers()[1].inputs);
  EXPECT_NE(tune.layers()[0].expert_shares, tune.layers()[1].expert_shares);
}

TEST(TuneLayers, AnotherTextGivesOtherStates) {
  Workers workers;
  cli::LayerOptions options;
  options.model = kModel;
  const cli::TuneLayers one(options, "", 8, workers.context),
      other(options, "A different text, then.", 8, workers.context);
  EXPECT_NE(one.layers()[0].inputs, other.layers()[0].inputs);
}

TEST(TuneLayers, AGeometrySaysThatItsWeightsAreRandom) {
  Workers workers;
  cli::LayerOptions options;
  options.geometry = "demo";
  options.bits = "6,2,3;2,2,2";
  const cli::TuneLayers tune(options, "", 8, workers.context);
  EXPECT_NE(tune.about().find("random mul1 weights"), std::string::npos) << tune.about();
  EXPECT_TRUE(tune.layers()[0].inputs.empty());
  EXPECT_EQ(tune.layers()[0].traits.mix.size(), 2u);
  // The traits that explain looks up are those that autotune writes.
  EXPECT_EQ(tune.layers()[0].traits.key, cli::geometry_traits(options).key);
}

TEST(TuneLayers, EveryGeometryHasTheKeyOfItsLayers) {
  Workers workers;
  for (const char* bits : {"3", "6,2,3", "6,2,3;6,3,4;6,2,4", "2;4"}) {
    cli::LayerOptions options;
    options.geometry = "demo";
    options.bits = bits;
    const cli::TuneLayers tune(options, "", 8, workers.context);
    EXPECT_EQ(tune.layers()[0].traits.key, cli::geometry_traits(options).key) << bits;
  }
}

TEST(TuneLayers, WeightsComeFromTheCacheIfTheyFit) {
  Workers workers;
  cli::LayerOptions options;
  options.geometry = "demo";
  const cli::TuneLayers demo(options, "", 8, workers.context);
  EXPECT_STREQ(demo.weights_from(demo.layers()[0].traits, 1), "cache");  // a few hundred kilobytes
}

}  // namespace
}  // namespace fairway::test
