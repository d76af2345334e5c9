// Models to be quantized: fp8 layers one at a time give what the same values as floats give; nothing else runs them.
#include <gmock/gmock.h>

#include <stdexcept>

#include "common/fp8_checkpoint.h"
#include "common/machine.h"
#include "fairway/error.h"
#include "model/model.h"
#include "model/weights.h"

namespace fairway {
namespace {

using model::Model;
using test::TempDir;
using test::TinySpec;
using ::testing::AllOf;
using ::testing::HasSubstr;

bool every_matrix(const std::string&) {
  return true;
}

TinySpec spec_of(formats::Architecture architecture) {
  TinySpec spec;
  spec.architecture = architecture;
  spec.hidden = 128;
  spec.experts = 4;
  spec.top_k = 2;
  return spec;
}

class SourceModel : public testing::Test {
 protected:
  // Final hidden states and logits of some tokens, one layer at a time.
  std::vector<float> run_by_layers(const Model& source) {
    model::KvCache cache(source.config());
    const int m = static_cast<int>(ids_.size());
    std::vector<float> x(ids_.size() * static_cast<std::size_t>(source.config().hidden_size));
    source.embed(ids_, x.data());
    for (int l = 0; l < source.config().num_hidden_layers; ++l) {
      const model::SourceLayer layer = source.read_layer(l);
      source.forward_layer(l, layer.weights, x.data(), m, cache, policy_, machine_.context, counters_);
    }
    source.final_norm(x.data(), m, policy_, machine_.context, counters_);
    return with_logits(source, std::move(x));
  }
  std::vector<float> run(const Model& model) {
    model::KvCache cache(model.config());
    std::vector<float> x;
    model.forward(ids_, cache, policy_, machine_.context, counters_, x);
    return with_logits(model, std::move(x));
  }
  std::vector<float> with_logits(const Model& model, std::vector<float> x) {
    std::vector<float> logits(ids_.size() * static_cast<std::size_t>(model.config().vocab_size));
    model.logits(x.data(), static_cast<int>(ids_.size()), policy_, machine_.context, counters_, logits.data());
    x.insert(x.end(), logits.begin(), logits.end());
    return x;
  }
  std::string error_of_source(const std::filesystem::path& dir) {
    try {
      Model::load_source(dir);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  TempDir dir_;
  test::Machine machine_;
  select::Policy policy_ = select::make_policy("", "", "");
  moe::Counters counters_;
  std::vector<int> ids_ = {256, 3, 1, 4, 1, 5, 9, 2, 6};
};

TEST_F(SourceModel, Fp8LayersRunAsTheirFloats) {
  for (const auto architecture : {formats::Architecture::kGlm4MoeLite, formats::Architecture::kQwen3Moe}) {
    for (const bool all : {false, true}) {
      const auto dir = dir_.path() / (std::to_string(static_cast<int>(architecture)) + (all ? "all" : "usual"));
      const TinySpec spec = spec_of(architecture);
      write_fp8_pair(dir / "fp8", dir / "plain", spec, {48, 40}, all ? every_matrix : test::is_usually_fp8);
      const std::vector<float> expected = run(Model::load(dir / "plain"));
      EXPECT_EQ(run_by_layers(Model::load_source(dir / "fp8")), expected) << dir;
      EXPECT_EQ(run_by_layers(Model::load_source(dir / "plain")), expected) << dir;
    }
  }
}

TEST_F(SourceModel, OnlyOneLayerIsHeld) {
  write_fp8_pair(dir_.path() / "fp8", dir_.path() / "plain", spec_of(formats::Architecture::kGlm4MoeLite));
  const Model source = Model::load_source(dir_.path() / "fp8");
  const model::SourceLayer layer = source.read_layer(1);
  // MLA: q_a, q_b, kv_a, kv_b, o; three for each of 4 experts and the shared one.
  EXPECT_EQ(layer.widened.values.size(), 5u + 3 * 5);
  EXPECT_EQ(source.read_layer(0).widened.values.size(), 5u + 3);
  const Model plain = Model::load_source(dir_.path() / "plain");
  EXPECT_TRUE(plain.read_layer(1).widened.values.empty());
  EXPECT_THROW(source.read_layer(2), std::logic_error);
  EXPECT_THROW(run(source), std::logic_error);
}

TEST_F(SourceModel, Fp8IsRefusedWhereItWouldRun) {
  write_fp8_pair(dir_.path() / "fp8", dir_.path() / "plain", spec_of(formats::Architecture::kGlm4MoeLite));
  try {
    Model::load(dir_.path() / "fp8");
    FAIL() << "an fp8 model was loaded";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_THAT(error.what(), AllOf(HasSubstr((dir_.path() / "fp8" / "model.safetensors").string()),
                                    HasSubstr("\"model.layers.0.self_attn.q_a_proj.weight\""), HasSubstr("F8_E4M3"),
                                    HasSubstr("fairway quantize")));
  }
}

TEST_F(SourceModel, ScalesAreCheckedBeforeAnythingRuns) {
  write_fp8_pair(dir_.path() / "fp8", dir_.path() / "plain", spec_of(formats::Architecture::kGlm4MoeLite));
  EXPECT_EQ(error_of_source(dir_.path() / "fp8"), "no error");
  // The same file under another layout of blocks.
  const auto config = dir_.path() / "fp8" / "config.json";
  std::filesystem::copy_file(dir_.path() / "plain" / "config.json", config,
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(error_of_source(dir_.path() / "fp8"), HasSubstr("blocks of 128 x 128"));
}

}  // namespace
}  // namespace fairway
