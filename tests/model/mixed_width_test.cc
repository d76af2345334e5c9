// A checkpoint in which every expert has another bit tuple gives the logits of the same weights dequantized to f32.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <span>
#include <string>
#include <vector>

#include "common/compare.h"
#include "common/policies.h"
#include "common/random_trellis.h"
#include "common/tiny_checkpoint.h"
#include "model/model.h"

namespace fairway {
namespace {

using formats::Architecture;

std::vector<int> random_ids(int count, int vocab, std::uint64_t seed) {
  test::Random random(seed);
  std::vector<int> ids;
  for (int i = 0; i < count; ++i) ids.push_back(static_cast<int>(random.next() % static_cast<std::uint64_t>(vocab)));
  return ids;
}

// Logits of every position: a prompt of all but five ids in one pass, then five single tokens.
std::vector<float> all_logits(const model::Model& model, const std::vector<int>& ids, const select::Policy& policy) {
  backend::ThreadPool pool(2);
  backend::Workspace workspace;
  kernels::KernelContext context{pool, workspace};
  moe::Counters counters;
  model::KvCache cache(model.config());
  const std::size_t vocab = static_cast<std::size_t>(model.config().vocab_size);
  std::vector<float> hidden, logits(ids.size() * vocab);
  std::size_t done = 0;
  while (done < ids.size()) {
    const std::size_t count = done == 0 ? ids.size() - 5 : 1;
    model.forward(std::span(ids).subspan(done, count), cache, policy, context, counters, hidden);
    model.logits(hidden.data(), static_cast<int>(count), policy, context, counters, logits.data() + done * vocab);
    done += count;
  }
  return logits;
}

void expect_same_logits(test::TinySpec spec) {
  for (int e = 1; e < spec.experts; ++e) ASSERT_NE(spec.expert_bits(0, e), spec.expert_bits(0, e - 1));
  const test::TempDir dir;
  write_tiny_checkpoint(dir.path() / "exl3", spec, test::TinyForm::kExl3);
  write_tiny_checkpoint(dir.path() / "f32", spec, test::TinyForm::kDequantizedF32);
  const auto coded = model::Model::load(dir.path() / "exl3");
  const auto plain = model::Model::load(dir.path() / "f32");
  const auto ids = random_ids(29, spec.vocab, spec.seed);
  const auto expected = all_logits(plain, ids, select::make_policy("cpu_ref", "fp32", ""));
  for (const auto& policy : test::fp32_policies()) {
    SCOPED_TRACE(fmt::format("seed {} on {}", spec.seed, test::describe(policy)));
    const auto actual = all_logits(coded, ids, policy);
    EXPECT_EQ(test::compare(expected, actual, spec.vocab, {.absolute = 1e-3}), "");
  }
}

TEST(MixedWidth, LatentAttentionWithInterleavedRope) {
  expect_same_logits({.seed = 11});
}

TEST(MixedWidth, LatentAttentionWithoutQueryLatentAndWithHalvesRope) {
  expect_same_logits(
      {.architecture = Architecture::kDeepseekV3, .q_lora_rank = 0, .rope_interleave = false, .seed = 12});
}

TEST(MixedWidth, GroupedQueryAttention) {
  expect_same_logits({.architecture = Architecture::kQwen3Moe, .seed = 13});
}

TEST(MixedWidth, EveryCodebookInOneLayer) {
  expect_same_logits({.all_codebooks = true, .seed = 14});
}

TEST(MixedWidth, TiedEmbeddings) {
  expect_same_logits({.architecture = Architecture::kQwen3Moe, .tie_word_embeddings = true, .seed = 15});
}

// Rounding activations to int8 is not bounded by 1e-3; it must still be the same model. Every expert is chosen here,
// because a random router has near ties, and one that falls the other way says nothing about the arithmetic.
TEST(MixedWidth, AutomaticRowsStayClose) {
  const test::TinySpec spec{.experts = 6, .top_k = 6, .seed = 16};
  const test::TempDir dir;
  write_tiny_checkpoint(dir.path(), spec, test::TinyForm::kExl3);
  const auto model = model::Model::load(dir.path());
  const auto ids = random_ids(29, spec.vocab, spec.seed);
  const auto expected = all_logits(model, ids, select::make_policy("cpu_ref", "fp32", ""));
  const auto actual = all_logits(model, ids, select::make_policy("", "", ""));
  EXPECT_EQ(test::compare(expected, actual, spec.vocab, {.absolute = 1.0, .row_relative = 0.04}), "");
}

}  // namespace
}  // namespace fairway
