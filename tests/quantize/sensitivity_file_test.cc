// Sensitivity files: exact round trip, and every promise of sensitivity.h checked when reading.
#include "quantize/sensitivity_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <tuple>

#include "fairway/error.h"
#include "quantize/random_sensitivity.h"
#include "select/expect_error.h"

namespace fairway::test {
namespace {

using quantize::check_sensitivity;
using quantize::parse_sensitivity;
using quantize::sensitivity_text;
using testing::HasSubstr;

const std::string kGood =
    R"({"schema": "fairway-sensitivity-1", "model": "m", "fixed_bytes": 10, "linears": [
  {"prefix": "model.layers.0.self_attn.q_proj", "role": "attention", "layer": 0, "expert": -1, "weights": 16384,
   "side_bytes": 512, "loss": [8, 7, 6, 5, 4, 3, 2, 1]},
  {"prefix": "lm_head", "role": "head", "layer": -1, "expert": -1, "weights": 32768, "side_bytes": 768,
   "loss": [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 1e-300]}]})";

std::string refused(const std::string& from, const std::string& to) {
  std::string text = kGood;
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  return error_text(ErrorKind::kBadInput, [&] { parse_sensitivity(text, "s.json"); });
}

TEST(SensitivityFile, EveryKeyIsRead) {
  const ModelSensitivity s = parse_sensitivity(kGood, "s.json");
  EXPECT_EQ(s.model, "m");
  EXPECT_EQ(s.fixed_bytes, 10);
  ASSERT_EQ(s.linears.size(), 2u);
  EXPECT_EQ(s.linears[0].prefix, "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(s.linears[0].layer, 0);
  EXPECT_EQ(s.linears[1].role, LinearRole::kHead);
  EXPECT_EQ(s.linears[1].weights, 32768);
  EXPECT_EQ(s.linears[1].side_bytes, 768);
  EXPECT_EQ(s.linears[0].loss[1], 8);
  EXPECT_EQ(s.linears[1].loss[8], 1e-300);
}

TEST(SensitivityFile, ReadBackIdentically) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    ModelSensitivity s = random_sensitivity({.layers = 3, .dense_layers = 1, .experts = 5}, seed);
    s.model = "\"\\\n\x01 né";
    const ModelSensitivity again = parse_sensitivity(sensitivity_text(s), "s.json");
    EXPECT_EQ(again.model, s.model);
    EXPECT_EQ(again.fixed_bytes, s.fixed_bytes);
    ASSERT_EQ(again.linears.size(), s.linears.size());
    for (std::size_t i = 0; i < s.linears.size(); ++i) {
      const auto fields = [](LinearSensitivity& l) {
        l.loss[0] = 0;  // not used, not stored
        return std::tie(l.prefix, l.role, l.layer, l.expert, l.weights, l.side_bytes, l.loss);
      };
      LinearSensitivity read = again.linears[i];
      EXPECT_EQ(fields(read), fields(s.linears[i])) << read.prefix;
    }
  }
}

TEST(SensitivityFile, MistakesAreNamed) {
  EXPECT_THAT(refused("-1\"", "-2\""), HasSubstr("s.json: schema: expected \"fairway-sensitivity-1\""));
  EXPECT_THAT(refused("\"model\": \"m\", ", ""), HasSubstr("key \"model\" is missing"));
  EXPECT_THAT(refused("\"model\"", "\"modell\""), HasSubstr("unknown key \"modell\""));
  EXPECT_THAT(refused("\"role\": \"attention\"", "\"role\": \"attention\", \"role\": \"head\""), HasSubstr("role"));
  EXPECT_THAT(refused("\"attention\"", "\"router\""), HasSubstr("linears[0].role: \"router\", expected attention"));
  EXPECT_THAT(refused("16384", "16385"), HasSubstr("weights is 16385, expected a multiple of 16384"));
  EXPECT_THAT(refused("16384", "-16384"), HasSubstr("linears[0].weights"));
  EXPECT_THAT(refused("16384", "1e30"), HasSubstr("linears[0].weights"));
  EXPECT_THAT(refused("512", "-1"), HasSubstr("side_bytes"));
  EXPECT_THAT(refused("[8, 7, ", "[8, "), HasSubstr("linears[0].loss: 7 numbers, expected 8"));
  EXPECT_THAT(refused("8, 7", "8, \"7\""), HasSubstr("linears[0].loss[1]: expected a number"));
  EXPECT_THAT(refused("8, 7", "8, 9"), HasSubstr("q_proj: the loss at 2 bits is 9, more than 8 at 1 bits"));
  EXPECT_THAT(refused("2, 1]", "2, 0]"), HasSubstr("the loss at 8 bits is 0, expected a positive number"));
  EXPECT_THAT(refused("8, 7", "1e999, 7"), HasSubstr("s.json"));
  EXPECT_THAT(refused("\"layer\": 0", "\"layer\": 1"), HasSubstr("layer is 1, which its module key does not begin"));
  EXPECT_THAT(refused("\"expert\": -1", "\"expert\": 0"), HasSubstr("expert is 0; routed experts, and only they"));
  EXPECT_THAT(refused("model.layers.0.self_attn.q_proj", ""), HasSubstr("key is empty"));
  EXPECT_THAT(refused("[\n", "[["), HasSubstr("s.json"));
  EXPECT_THAT(refused("\"linears\": [", "\"linears\": [[[[[[[[1]]]]]]], "), HasSubstr("s.json"));
}

TEST(SensitivityFile, MatricesFitTogether) {
  const auto refused_model = [](const ModelSensitivity& s) {
    return error_text(ErrorKind::kBadInput, [&] { check_sensitivity(s, "s.json"); });
  };
  const ModelSensitivity good = random_sensitivity({.layers = 1, .experts = 2}, 1);
  check_sensitivity(good, "s.json");
  ModelSensitivity s = good;
  s.linears.push_back(s.linears.front());
  EXPECT_THAT(refused_model(s), HasSubstr("s.json: model.layers.0.self_attn.q_proj: is there twice"));
  s = good;
  s.linears.push_back(linear_of("head.2", LinearRole::kHead, -1, -1, 1, 1));
  EXPECT_THAT(refused_model(s), HasSubstr("head.2: is a second head"));
  s = good;
  s.linears.erase(s.linears.begin() + 5);
  EXPECT_THAT(refused_model(s), HasSubstr("expert 0 of layer 0 has 2 of the three matrices"));
  s = good;
  s.linears[5].prefix = "model.layers.0.mlp.experts.7.up_proj";
  EXPECT_THAT(refused_model(s), HasSubstr("is not model.layers.0.mlp.experts.0.gate_proj, up_proj or down_proj"));
  s = good;
  s.linears[0].loss[3] = std::numeric_limits<double>::infinity();
  EXPECT_THAT(refused_model(s), HasSubstr("the loss at 3 bits is inf"));
  s = good;
  for (LinearSensitivity& linear : s.linears) linear.side_bytes = std::int64_t{1} << 44;
  EXPECT_THAT(refused_model(s), HasSubstr("more than"));
  s = {};
  EXPECT_THAT(refused_model(s), HasSubstr("linears has 0 matrices"));
}

}  // namespace
}  // namespace fairway::test
