// The bundled model end to end: the same text whatever the threads and chunks, close logits on every backend.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "common/compare.h"
#include "common/policies.h"
#include "engine/engine.h"

namespace fairway {
namespace {

using engine::Engine;
using engine::EngineOptions;
using engine::GenerateOptions;

const char* const kPrompt = "It was a dark and stormy night, and the rain beat upon the windows of the old inn where";

Engine load(const std::string& backend, const std::string& activations, int threads, int prefill_chunk = 512) {
  EngineOptions options;
  options.threads = threads;
  options.policy = select::make_policy(backend, activations, "");
  options.prefill_chunk = prefill_chunk;
  return Engine::load(std::filesystem::path(FAIRWAY_SOURCE_DIR) / "models" / "books-moe", options);
}

engine::GenerateResult greedy(Engine& engine, int max_tokens) {
  GenerateOptions options;
  options.max_tokens = max_tokens;
  return engine.generate(engine.encode_prompt(kPrompt), options);
}

TEST(BooksMoe, GreedyTextDoesNotDependOnThreads) {
  for (const char* activations : {"auto", "fp32"}) {
    Engine one = load("", activations, 1);
    const auto expected = greedy(one, 24);
    EXPECT_EQ(expected.ids.size(), 24u);
    const auto expected_logits = one.last_logits(one.encode_prompt(kPrompt));
    for (const int threads : {2, 3}) {
      Engine more = load("", activations, threads);
      EXPECT_EQ(more.threads(), threads);
      const auto result = greedy(more, 24);
      EXPECT_EQ(result.ids, expected.ids) << activations << ", " << threads << " threads";
      EXPECT_EQ(result.text, expected.text);
      EXPECT_EQ(test::compare_exact(expected_logits, more.last_logits(more.encode_prompt(kPrompt))), "");
    }
  }
}

TEST(BooksMoe, PrefillChunksDoNotMatter) {
  Engine whole = load("", "fp32", 2, 512);
  Engine chunks = load("", "fp32", 2, 7);
  const auto ids = whole.encode_prompt(kPrompt);
  ASSERT_GT(ids.size(), 14u);
  const auto expected = whole.last_logits(ids);
  EXPECT_EQ(
      test::compare(expected, chunks.last_logits(ids), static_cast<std::int64_t>(expected.size()), {.absolute = 2e-3}),
      "");
}

TEST(BooksMoe, BackendsGiveTheSameLogitsWithinRounding) {
  Engine reference = load("cpu_ref", "fp32", 2);
  const auto ids = reference.encode_prompt("The old man looked at the sea.");
  const auto expected = reference.last_logits(ids);
  for (const std::string& backend : test::backends_here()) {
    Engine engine = load(backend, "fp32", 2);
    EXPECT_EQ(test::compare(expected, engine.last_logits(ids), static_cast<std::int64_t>(expected.size()),
                            {.absolute = 2e-3}),
              "")
        << backend;
  }
}

TEST(BooksMoe, EveryLayerPassIsAGroupedCallWithoutFallback) {
  Engine engine = load("", "auto", 2);
  engine.reset_counters();
  const auto result = greedy(engine, 10);
  ASSERT_EQ(result.ids.size(), 10u);
  const moe::Counters& counters = engine.counters();
  const auto layers = static_cast<std::uint64_t>(engine.model().config().num_hidden_layers);
  // One prefill pass and nine single tokens. In a single-token pass all experts share a row; in the prefill, where
  // their numbers of tokens differ, they share the row for groups of all sizes.
  EXPECT_EQ(counters.grouped_calls, 10 * layers);
  EXPECT_EQ(counters.fallback_calls(), 0u);
  std::uint64_t moe_calls = 0;
  for (const auto& [row, calls] : counters.kernels) {
    if (std::string(row->op) == "moe_swiglu") moe_calls += calls;
  }
  EXPECT_EQ(moe_calls, counters.grouped_calls);
  // First layer dense: one group a pass. The others: top_k experts and the shared one for each single token.
  const auto top_k = static_cast<std::uint64_t>(engine.model().config().num_experts_per_tok);
  EXPECT_GE(counters.expert_groups, 9 * (1 + (layers - 1) * (top_k + 1)));
  engine.reset_counters();
  EXPECT_EQ(engine.counters().grouped_calls, 0u);
}

}  // namespace
}  // namespace fairway
