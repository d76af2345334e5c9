// Plan files: what is written is read back, and what people mistype is refused with file and line.
#include "quantize/bit_plan.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "fairway/error.h"
#include "quantize/allocate.h"
#include "quantize/plan_layout.h"
#include "quantize/random_sensitivity.h"
#include "select/expect_error.h"

namespace fairway::test {
namespace {

using quantize::bit_plan_text;
using quantize::BitPlan;
using quantize::parse_bit_plan;
using quantize::PlannedLinear;
using testing::HasSubstr;

const std::string kGood =
    "schema: fairway-bit-plan-1\n"                  // line 1
    "model: small\n"                                // 2
    "codebook: mcg\n"                               // 3
    "method: manual\n"                              // 4
    "budget: {asked_bits: 2.5, total_bytes: 77}\n"  // 5
    "layers:\n"                                     // 6
    "  0:\n"                                        // 7
    "    self_attn: {q_proj: 4, o_proj: 5}\n"       // 8
    "  1:\n"                                        // 9
    "    mlp.experts:\n"                            // 10
    "      \"0-1,3\": [6, 2, 3]\n"                  // 11
    "      2: [1, 8, 4]\n"                          // 12
    "    mlp.shared_experts: {down_proj: 7}\n"      // 13
    "other: {lm_head: 6}\n";                        // 14

std::vector<std::string> prefixes_of(const BitPlan& plan) {
  std::vector<std::string> prefixes;
  for (const PlannedLinear& linear : plan.linears) prefixes.push_back(linear.prefix);
  return prefixes;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

// Why kGood with `from` replaced is refused.
std::string refused(const std::string& from, const std::string& to) {
  return error_text(ErrorKind::kBadInput, [&] { parse_bit_plan(replaced(kGood, from, to), "p.yaml"); });
}

TEST(BitPlan, EveryKeyIsRead) {
  const BitPlan plan = parse_bit_plan(kGood, "p.yaml");
  EXPECT_EQ(plan.model, "small");
  EXPECT_EQ(plan.codebook, codec::Codebook::kMcg);
  EXPECT_EQ(plan.method, "manual");
  EXPECT_EQ(plan.budget, (quantize::PlanBudget{.asked_bits = 2.5, .total_bytes = 77}));
  std::string widths;
  for (const PlannedLinear& linear : plan.linears) widths += fmt::format("{} {}\n", linear.prefix, linear.bits);
  EXPECT_EQ(widths,
            "model.layers.0.self_attn.q_proj 4\nmodel.layers.0.self_attn.o_proj 5\n"
            "model.layers.1.mlp.experts.0.gate_proj 6\nmodel.layers.1.mlp.experts.0.up_proj 2\n"
            "model.layers.1.mlp.experts.0.down_proj 3\nmodel.layers.1.mlp.experts.1.gate_proj 6\n"
            "model.layers.1.mlp.experts.1.up_proj 2\nmodel.layers.1.mlp.experts.1.down_proj 3\n"
            "model.layers.1.mlp.experts.2.gate_proj 1\nmodel.layers.1.mlp.experts.2.up_proj 8\n"
            "model.layers.1.mlp.experts.2.down_proj 4\nmodel.layers.1.mlp.experts.3.gate_proj 6\n"
            "model.layers.1.mlp.experts.3.up_proj 2\nmodel.layers.1.mlp.experts.3.down_proj 3\n"
            "model.layers.1.mlp.shared_experts.down_proj 7\nlm_head 6\n");
}

TEST(BitPlan, ReadBackIdentically) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const ModelSensitivity model = random_sensitivity({.layers = 4, .dense_layers = 1, .experts = 12}, seed);
    BitPlan plan = quantize::allocate(model, {.bits = 2.0 + 0.1 * static_cast<double>(seed), .max_tuples = 0});
    plan.model = "\"quoted\" \\ \x01\x7f: {né} #\n";
    plan.codebook = seed % 2 == 0 ? codec::Codebook::k3inst : codec::Codebook::kMul1;
    const std::string text = bit_plan_text(plan);
    EXPECT_EQ(parse_bit_plan(text, "p.yaml"), plan) << text;
    EXPECT_EQ(parse_bit_plan(text, "p.yaml", prefixes_of(plan)), plan);
  }
}

TEST(BitPlan, KeysOfOtherShapesAreReadBack) {
  BitPlan plan;
  for (const char* prefix : {"model.layers.2.mlp.experts.4.up_proj", "model.layers.2.null.~", "model.layers.10.a.b.c.d",
                             "model.layers.07.a.b", "model.layers.1.mlp.experts.gate_proj", "model.layers.1.x",
                             "model.layers.1..x", "model.layers.1.a.", "model.layers.3.mlp.experts.1.other", "null", "",
                             "a: b", "[x]", "model.layers.99999999999.a.b"}) {
    plan.linears.push_back({prefix, 1 + static_cast<int>(plan.linears.size()) % 8});
  }
  const BitPlan again = parse_bit_plan(bit_plan_text(plan), "p.yaml", prefixes_of(plan));
  EXPECT_EQ(again, plan) << bit_plan_text(plan);
}

// Code points that YAML takes for ends of lines or wants escaped, in names and in keys.
TEST(BitPlan, OddCharactersAreReadBack) {
  BitPlan plan;
  for (const char* odd :
       {"\x7f", "\u0080", "\u0085", "\u009f", "\u00a0", "\u2028", "\u2029", "\ufeff", "\u0442", "\t"}) {
    plan.model += std::string("a") + odd + "b";
    plan.linears.push_back({std::string("model.layers.0.x.") + odd + "y", 3});
  }
  EXPECT_EQ(parse_bit_plan(bit_plan_text(plan), "p.yaml"), plan) << bit_plan_text(plan);
}

// YAML's plain keys end at 1024 characters.
TEST(BitPlan, LongKeysAreReadBack) {
  const std::string many(3000, 'k'), controls(200, '\x13');
  BitPlan plan;
  plan.linears = {{"model.layers.0." + many + "." + many, 1}, {"model.layers.0." + controls + ".x", 2}};
  for (int expert = 0; expert < 1000; ++expert) {
    for (const char* projection : {"gate_proj", "up_proj", "down_proj"}) {
      plan.linears.push_back(
          {"model.layers.7.mlp.experts." + std::to_string(expert) + "." + projection, 1 + expert % 2});
    }
  }
  plan.linears.push_back({many, 3});
  EXPECT_EQ(parse_bit_plan(bit_plan_text(plan), "p.yaml", prefixes_of(plan)), plan);
}

TEST(BitPlan, ExpertsOfEqualWidthsShareALine) {
  EXPECT_THAT(bit_plan_text(parse_bit_plan(kGood, "p.yaml")),
              HasSubstr("    mlp.experts:  # experts: [gate, up, down]\n      \"0-1,3\": [6, 2, 3]\n"
                        "      \"2\": [1, 8, 4]\n    mlp.shared_experts: {down_proj: 7}\nother: {lm_head: 6}\n"));
}

TEST(BitPlan, OrderIsTheModels) {
  std::vector<std::string> prefixes = prefixes_of(parse_bit_plan(kGood, "p.yaml"));
  std::shuffle(prefixes.begin(), prefixes.end(), std::mt19937(1));
  const BitPlan plan = parse_bit_plan(kGood, "p.yaml", prefixes);
  EXPECT_EQ(prefixes_of(plan), prefixes);
}

TEST(BitPlan, MatricesMustBeTheModels) {
  std::vector<std::string> prefixes = prefixes_of(parse_bit_plan(kGood, "p.yaml"));
  const auto text = [&] {
    return error_text(ErrorKind::kBadInput, [&] { parse_bit_plan(kGood, "p.yaml", prefixes); });
  };
  prefixes.emplace_back("model.layers.1.self_attn.q_proj");
  EXPECT_EQ(text(), "p.yaml: no width for the model's matrix 'model.layers.1.self_attn.q_proj'");
  prefixes.pop_back();
  std::erase(prefixes, "model.layers.1.mlp.experts.2.up_proj");
  EXPECT_EQ(text(), "p.yaml: line 12: the model has no matrix 'model.layers.1.mlp.experts.2.up_proj' to code");
}

TEST(BitPlan, MistakesNameFileLineKeyAndValue) {
  EXPECT_EQ(refused("q_proj: 4", "q_proj: 9"),
            "p.yaml: line 8: layer 0: self_attn: q_proj is '9', expected a number from 1 to 8");
  EXPECT_THAT(refused("q_proj: 4", "q_proj: 0"), HasSubstr("line 8: layer 0: self_attn: q_proj is '0'"));
  EXPECT_THAT(refused("q_proj: 4", "q_proj: 4.0"), HasSubstr("'4.0'"));
  EXPECT_THAT(refused("q_proj: 4", "q_proj: [4]"), HasSubstr("no single value"));
  EXPECT_THAT(refused("q_proj: 4", "q_proj:"), HasSubstr("no single value"));
  EXPECT_THAT(refused("o_proj", "q_proj"),
              HasSubstr("line 8: the matrix 'model.layers.0.self_attn.q_proj' is planned twice"));
  EXPECT_THAT(refused("  1:\n", "  0:\n"), HasSubstr("line 9: layer 0 twice"));
  EXPECT_THAT(refused("  1:\n", "  01:\n"), HasSubstr("line 9: layers: '01' is no number of a layer"));
  EXPECT_THAT(refused("  1:\n", "  65536:\n"), HasSubstr("'65536'"));
  EXPECT_THAT(refused("[6, 2, 3]", "[6, 2]"), HasSubstr("line 11: layer 1: mlp.experts: 0-1,3 is not a list of three"));
  EXPECT_THAT(refused("[6, 2, 3]", "[6, 2, 33]"), HasSubstr("line 11: layer 1: mlp.experts: 0-1,3 is '33'"));
  EXPECT_THAT(refused("0-1,3", "0-1,2"), HasSubstr("line 12: layer 1: mlp.experts: expert 2 twice"));
  EXPECT_THAT(refused("0-1,3", "1-0,3"), HasSubstr("line 11: layer 1: mlp.experts: 1-0,3 is no list of experts"));
  EXPECT_THAT(refused("0-1,3", "0-1,"), HasSubstr("is no list of experts"));
  EXPECT_THAT(refused("0-1,3", "0-4000000000"), HasSubstr("is no list of experts"));
  EXPECT_THAT(refused("    mlp.experts:", "    mlp.experts.0: {up_proj: 3}\n    mlp.experts:"),
              HasSubstr("line 12: the matrix 'model.layers.1.mlp.experts.0.up_proj' is planned twice"));
}

TEST(BitPlan, MistakesAtTheTop) {
  EXPECT_THAT(refused("fairway-bit-plan-1", "fairway-bit-plan-2"), HasSubstr("line 1: schema is 'fairway-bit-plan-2'"));
  EXPECT_THAT(refused("codebook: mcg", "codebook: mgc"), HasSubstr("line 3: codebook is 'mgc', expected mul1"));
  EXPECT_THAT(refused("codebook: mcg\n", ""), HasSubstr("the key 'codebook' is missing"));
  EXPECT_THAT(refused("method", "methods"), HasSubstr("line 4: unknown key 'methods'; known are budget, codebook"));
  EXPECT_THAT(refused("method: manual", "model: again"), HasSubstr("line 4: the key 'model' twice"));
  EXPECT_THAT(refused("asked_bits: 2.5", "asked_bits: much"), HasSubstr("line 5: budget: asked_bits is 'much'"));
  EXPECT_THAT(refused("asked_bits: 2.5", "asked_bits: nan"), HasSubstr("'nan'"));
  EXPECT_THAT(refused("asked_bits", "asked_bit"), HasSubstr("line 5: budget has the unknown key 'asked_bit'"));
  EXPECT_THAT(refused("asked_bits: 2.5", "total_bytes: 2"),
              HasSubstr("line 5: budget has the key 'total_bytes' twice"));
  EXPECT_THAT(refused("{lm_head: 6}", "6"), HasSubstr("line 14: other is not a map"));
  EXPECT_THAT(refused("other: {", "other: {["), HasSubstr("line 14: not YAML"));
  EXPECT_THAT(refused("small", "sm\xffll"), HasSubstr("p.yaml: byte 36 is not UTF-8 text"));
  EXPECT_THAT(refused("small", std::string(1, '\0')), HasSubstr("p.yaml: byte 34 is not UTF-8 text"));
  EXPECT_THAT(refused("small", "\"sm\\Nll\""), HasSubstr("line 2: 'model' is 'sm\\x85ll', which is not UTF-8 text"));
  EXPECT_THAT(refused("lm_head", "\"lm\\_head\""), HasSubstr("line 14: a key of other is 'lm\\xa0head', which is not"));
  for (const char* text : {"", "[]", "5", "layers: {}"}) {
    EXPECT_THAT(error_text(ErrorKind::kBadInput, [&] { parse_bit_plan(text, "p.yaml"); }), HasSubstr("p.yaml"));
  }
}

TEST(BitPlan, SizesAreBounded) {
  const std::string head = "schema: fairway-bit-plan-1\nmodel: m\ncodebook: mul1\nmethod: x\nlayers:\n";
  std::string many = head;
  for (int layer = 0; layer < 2; ++layer) many += fmt::format("  {}: {{mlp.experts: {{0-65535: [1, 2, 3]}}}}\n", layer);
  EXPECT_THAT(error_text(ErrorKind::kBadInput, [&] { parse_bit_plan(many, "p.yaml"); }),
              HasSubstr("line 7: more than 200000 matrices"));
  const std::string large(std::size_t{5} << 20, ' ');
  EXPECT_THAT(error_text(ErrorKind::kBadInput, [&] { parse_bit_plan(large, "p.yaml"); }), HasSubstr("5242880 bytes"));
  const std::string deep = head + std::string(100000, '[');
  EXPECT_THAT(error_text(ErrorKind::kBadInput, [&] { parse_bit_plan(deep, "p.yaml"); }), HasSubstr("p.yaml"));
}

TEST(PlanLayout, Runs) {
  EXPECT_EQ(quantize::runs_text({0, 1, 2, 4, 6, 7}), "0-2,4,6-7");
  EXPECT_EQ(quantize::runs_text({}), "");
  EXPECT_EQ(quantize::parse_runs("0-2,4"), (std::vector<std::pair<int, int>>{{0, 2}, {4, 4}}));
  for (const char* text : {"", ",", "1,,2", "-1", "1-", "1-2-3", " 1", "1 ", "+1", "0x1", "00"}) {
    EXPECT_FALSE(quantize::parse_runs(text)) << text;
  }
}

}  // namespace
}  // namespace fairway::test
