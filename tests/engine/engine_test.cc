// The generation loop: stop reasons, streaming, statistics and evaluation, on small random models.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "common/compare.h"
#include "common/tiny_checkpoint.h"
#include "engine/log_softmax.h"
#include "fairway/error.h"

namespace fairway {
namespace {

using engine::Engine;
using engine::EngineOptions;
using engine::GenerateOptions;
using engine::StopReason;

class EngineTest : public testing::Test {
 protected:
  Engine load(const test::TinySpec& spec, int prefill_chunk = 512) {
    write_tiny_checkpoint(dir_.path(), spec, test::TinyForm::kExl3);
    EngineOptions options;
    options.threads = 2;
    options.policy = select::make_policy("", "fp32", "");
    options.prefill_chunk = prefill_chunk;
    return Engine::load(dir_.path(), options);
  }

  test::TempDir dir_;
};

template <class Call>
void expect_error(ErrorKind kind, const std::string& part, const Call& call) {
  try {
    call();
    FAIL() << "no error; expected one about " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

GenerateOptions tokens(int max_tokens) {
  GenerateOptions options;
  options.max_tokens = max_tokens;
  options.stop_at_eos = false;
  return options;
}

TEST_F(EngineTest, StopsAtTheWantedLength) {
  Engine engine = load({});
  const std::vector<int> prompt{256, 72, 105};
  const auto result = engine.generate(prompt, tokens(9));
  EXPECT_EQ(result.ids.size(), 9u);
  EXPECT_EQ(result.prompt_tokens, 3);
  EXPECT_EQ(result.stop, StopReason::kLength);
  EXPECT_GT(result.prefill_seconds, 0);
  EXPECT_GT(result.decode_seconds, 0);
  EXPECT_DOUBLE_EQ(result.tokens_per_second(), 8 / result.decode_seconds);
  EXPECT_EQ(engine.generate(prompt, tokens(1)).tokens_per_second(), 0);
}

TEST_F(EngineTest, NothingWantedGivesNothing) {
  Engine engine = load({});
  const auto result = engine.generate(std::vector<int>{256}, tokens(0));
  EXPECT_TRUE(result.ids.empty());
  EXPECT_EQ(result.stop, StopReason::kLength);
  expect_error(ErrorKind::kUsage, "-1", [&] { engine.generate(std::vector<int>{256}, tokens(-1)); });
}

TEST_F(EngineTest, StopsWhenTheContextIsFull) {
  test::TinySpec spec;
  spec.max_positions = 20;
  Engine engine = load(spec);
  const auto result = engine.generate(std::vector<int>{256, 1, 2, 3, 4, 5, 6, 7}, tokens(100));
  EXPECT_EQ(result.stop, StopReason::kContextFull);
  // 8 prompt tokens leave 12 positions; the token sampled from the last one is still valid output.
  EXPECT_EQ(result.ids.size(), 13u);
}

TEST_F(EngineTest, RefusesAPromptLongerThanTheContext) {
  test::TinySpec spec;
  spec.max_positions = 20;
  Engine engine = load(spec);
  const std::vector<int> prompt(21, 65);
  expect_error(ErrorKind::kUsage, "21", [&] { engine.generate(prompt, tokens(1)); });
  expect_error(ErrorKind::kUsage, "21", [&] { engine.last_logits(prompt); });
  expect_error(ErrorKind::kUsage, "21", [&] { engine.logprobs(std::vector<int>(22, 65)); });
  EXPECT_EQ(engine.logprobs(prompt).size(), 20u);  // the last id needs no position of its own
}

TEST_F(EngineTest, StopsAtEndOfTextIfAsked) {
  // The first greedy token is declared to end a text, so both kinds of run are known.
  Engine probe = load({});
  const std::vector<int> prompt{256, 72, 105};
  const auto free_run = probe.generate(prompt, tokens(6));
  const int eos = free_run.ids.front();
  const auto config_path = dir_.path() / "generation_config.json";
  {
    std::FILE* file = std::fopen(config_path.c_str(), "w");
    ASSERT_NE(file, nullptr);
    std::fprintf(file, "{\"eos_token_id\": [%d]}\n", eos);
    std::fclose(file);
  }
  EngineOptions options;
  options.policy = select::make_policy("", "fp32", "");
  Engine engine = Engine::load(dir_.path(), options);
  GenerateOptions stopping = tokens(6);
  stopping.stop_at_eos = true;
  const auto stopped = engine.generate(prompt, stopping);
  EXPECT_EQ(stopped.ids, std::vector<int>{eos});
  EXPECT_EQ(stopped.stop, StopReason::kEos);
  EXPECT_EQ(engine.generate(prompt, tokens(6)).ids, free_run.ids);
}

TEST_F(EngineTest, CancelStopsPrefillAndDecoding) {
  Engine engine = load({}, 4);
  const std::vector<int> prompt{256, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  std::atomic<bool> cancel{true};
  GenerateOptions options = tokens(50);
  options.cancel = &cancel;
  const auto before = engine.generate(prompt, options);
  EXPECT_EQ(before.stop, StopReason::kCancelled);
  EXPECT_TRUE(before.ids.empty());

  cancel = false;
  const auto during = engine.generate(prompt, options, [&](std::string_view) { cancel = true; });
  EXPECT_EQ(during.stop, StopReason::kCancelled);
  EXPECT_GE(during.ids.size(), 1u);
  EXPECT_LT(during.ids.size(), 50u);

  expect_error(ErrorKind::kCancelled, "cancelled", [&] { engine.logprobs(prompt, &cancel); });
}

TEST_F(EngineTest, EmptyPromptStartsWithTheTokenThatBeginsATextOrIsRefused) {
  Engine engine = load({});
  const auto result = engine.generate({}, tokens(3));
  EXPECT_EQ(result.prompt_tokens, 1);
  EXPECT_EQ(result.ids, engine.generate(std::vector<int>{256}, tokens(3)).ids);

  std::filesystem::remove(dir_.path() / "tokenizer_config.json");
  EngineOptions options;
  options.policy = select::make_policy("", "fp32", "");
  Engine without = Engine::load(dir_.path(), options);
  ASSERT_EQ(without.tokenizer().bos_id(), -1);
  expect_error(ErrorKind::kUsage, "empty", [&] { without.generate({}, tokens(3)); });
}

TEST_F(EngineTest, StreamedPiecesAreTheText) {
  Engine engine = load({});
  std::string streamed;
  const auto result =
      engine.generate(engine.encode_prompt("Hi"), tokens(40), [&](std::string_view piece) { streamed += piece; });
  EXPECT_EQ(streamed, result.text);
  EXPECT_EQ(result.text, engine.tokenizer().decode(result.ids));
}

TEST_F(EngineTest, SeedDecidesASampledText) {
  Engine engine = load({});
  GenerateOptions options = tokens(20);
  options.sample.temperature = 1.0f;
  options.seed = 5;
  const std::vector<int> prompt{256};
  const auto first = engine.generate(prompt, options);
  EXPECT_EQ(engine.generate(prompt, options).ids, first.ids);
  options.seed = 6;
  EXPECT_NE(engine.generate(prompt, options).ids, first.ids);
}

TEST_F(EngineTest, LogprobsAreTheLogSoftmaxOfTheLogits) {
  Engine engine = load({}, 5);
  const std::vector<int> ids{256, 72, 101, 108, 108, 111, 44, 32, 119, 111, 114, 108, 100};
  const auto logprobs = engine.logprobs(ids);
  ASSERT_EQ(logprobs.size(), ids.size() - 1);
  for (std::size_t i = 1; i < ids.size(); ++i) {
    const auto logits = engine.last_logits(std::span(ids).first(i));
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
    const double expected = static_cast<double>(logits[static_cast<std::size_t>(ids[i])]) - std::log(sum);
    EXPECT_NEAR(logprobs[i - 1], expected, 1e-3) << i;
  }
  EXPECT_TRUE(engine.logprobs(std::vector<int>{256}).empty());
  expect_error(ErrorKind::kUsage, "320", [&] { engine.logprobs(std::vector<int>{256, 320}); });
}

TEST_F(EngineTest, RefusesNonsenseOptions) {
  expect_error(ErrorKind::kUsage, "prefill_chunk", [&] { load({}, 0); });
  Engine engine = load({});
  expect_error(ErrorKind::kUsage, "at least one token", [&] { engine.last_logits({}); });
}

TEST_F(EngineTest, LikeliestTokensOfEveryStep) {
  Engine engine = load({}, 5);
  GenerateOptions options;
  options.max_tokens = 4;
  options.stop_at_eos = false;
  const std::vector<int> prompt{256, 72};
  EXPECT_TRUE(engine.generate(prompt, options).top_logprobs.empty());
  options.top_logprobs = 3;
  const auto result = engine.generate(prompt, options);
  ASSERT_EQ(result.top_logprobs.size(), 4u);
  std::vector<int> ids = prompt;
  for (std::size_t i = 0; i < 4; ++i) {
    const auto& top = result.top_logprobs[i];
    ASSERT_EQ(top.size(), 3u);
    EXPECT_EQ(top[0].id, result.ids[i]);
    EXPECT_GE(top[0].logprob, top[1].logprob);
    EXPECT_GE(top[1].logprob, top[2].logprob);
    ids.push_back(result.ids[i]);
    EXPECT_NEAR(top[0].logprob, engine.logprobs(ids).back(), 1e-3) << i;
  }
  options.top_logprobs = -1;
  expect_error(ErrorKind::kUsage, "top_logprobs", [&] { engine.generate(prompt, options); });
}

TEST(LargestLogits, FallAndTiesGoToTheLower) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> logits{1, 5, nan, 5, -2};
  EXPECT_EQ(engine::largest_logits(logits, 2), (std::vector<int>{1, 3}));
  EXPECT_EQ(engine::largest_logits(logits, 9), (std::vector<int>{1, 3, 0, 4, 2}));
  EXPECT_TRUE(engine::largest_logits(logits, 0).empty());
}

TEST(LogSoftmax, IsExactForLargeAndEqualLogits) {
  const std::vector<float> equal(4, 3000.0f);
  EXPECT_DOUBLE_EQ(engine::log_softmax_at(equal, 2), -std::log(4.0));
  const std::vector<float> apart{0.0f, -1000.0f};
  EXPECT_DOUBLE_EQ(engine::log_softmax_at(apart, 0), 0.0);
  EXPECT_DOUBLE_EQ(engine::log_softmax_at(apart, 1), -1000.0);
}

TEST(StopReason, NamesAreAContract) {
  EXPECT_STREQ(engine::stop_reason_name(StopReason::kLength), "length");
  EXPECT_STREQ(engine::stop_reason_name(StopReason::kEos), "eos");
  EXPECT_STREQ(engine::stop_reason_name(StopReason::kCancelled), "cancelled");
  EXPECT_STREQ(engine::stop_reason_name(StopReason::kContextFull), "context_full");
}

}  // namespace
}  // namespace fairway
