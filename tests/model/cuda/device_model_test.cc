// A model on a device beside the same model on the host: prompts, single steps, several sequences, both kinds of
// attention and of cache.
#include "model/device_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "common/compare.h"
#include "common/policies.h"
#include "common/tiny_checkpoint.h"
#include "engine/engine.h"
#include "fairway/error.h"
#include "kernels/common/cuda/case_size.h"
#include "model/model.h"
#include "moe/routing_margins.h"

namespace fairway {
namespace {

using kernels::cuda::check::by_size;
using model::DeviceCacheType;
using model::DeviceModel;
using model::DeviceModelOptions;
using model::KvCache;
using model::Model;

const int kPrompt = by_size(70, 9), kSteps = by_size(12, 3, 1);

// Norm of the error of a row of logits against the fp32 path of the host. On the device activations, keys and values
// are halves (2^-11 of a value at most, in some ten places per layer); kv_b_proj may have 8 bits (0.4 % of a weight);
// with E4M3 keys and values have 3 bits of mantissa (up to 6 % of a value).
constexpr test::Bound kHalfCache{.row_relative = 0.004};
constexpr test::Bound kEightBits{.row_relative = 0.015};
constexpr test::Bound kFp8Cache{.row_relative = 0.1};

// Such errors change which experts a router chooses where two are nearly as good, and then a row of logits is another
// one. Rows whose routing margin is at least twice the usual error of a router's input are held to the bound, and at
// least a share of all rows must be such rows.
struct OrdinaryRows {
  double margin, share;
};
constexpr OrdinaryRows kHalfOrdinary{0.005, 0.85}, kEightBitsOrdinary{0.015, 0.75}, kFp8Ordinary{0.05, 0.5};

std::vector<int> some_ids(int count, int first = 11) {
  std::vector<int> ids;
  for (int i = 0; i < count; ++i) ids.push_back((i * 37 + first) % 256);
  return ids;
}

// A tiny model on both sides.
class Both {
 public:
  explicit Both(const test::TinySpec& spec) : host_(load(spec)) {}

  const Model& host() const { return host_; }
  int vocab() const { return host_.config().vocab_size; }

  DeviceModel device(const DeviceModelOptions& options) const { return DeviceModel::load(host_, options); }

  // Logits of all ids from an empty cache on the host.
  std::vector<float> host_logits(std::span<const int> ids) {
    KvCache cache(host_.config());
    std::vector<float> hidden;
    routing_.watch(counters_);
    host_.forward(ids, cache, policy_, context_, counters_, hidden);
    margins_ = routing_.take();
    std::vector<float> logits(ids.size() * static_cast<std::size_t>(vocab()));
    host_.logits(hidden.data(), static_cast<int>(ids.size()), policy_, context_, counters_, logits.data());
    return logits;
  }

  // Of the rows of `logits` that the last host_logits() gave with a margin of at least `least`, one after the other.
  std::vector<float> rows_with_margin(const std::vector<float>& logits, double least) const {
    std::vector<float> kept;
    const auto width = static_cast<std::ptrdiff_t>(vocab());
    for (std::size_t r = 0; r < margins_.size(); ++r) {
      const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(r) * width;
      if (margins_[r] >= least) kept.insert(kept.end(), begin, begin + width);
    }
    return kept;
  }

  // The same on the device, in passes of at most `chunk` ids.
  std::vector<float> device_logits(DeviceModel& device, std::span<const int> ids, std::size_t chunk, int sequence = 0) {
    device.truncate(sequence, 0);
    std::vector<float> logits(ids.size() * static_cast<std::size_t>(vocab()));
    for (std::size_t begin = 0; begin < ids.size(); begin += chunk) {
      const auto part = ids.subspan(begin, std::min(chunk, ids.size() - begin));
      device.forward(part, sequence);
      // In two calls: the first must not change what the second one starts from.
      const int rows = static_cast<int>(part.size()), half = (rows + 1) / 2;
      float* const to = &logits[begin * static_cast<std::size_t>(vocab())];
      device.logits(0, half, to);
      if (half < rows) device.logits(half, rows - half, to + half * vocab());
    }
    return logits;
  }

 private:
  Model load(const test::TinySpec& spec) {
    write_tiny_checkpoint(dir_.path(), spec, test::TinyForm::kExl3);
    return Model::load(dir_.path());
  }

  test::TempDir dir_;
  Model host_;
  backend::ThreadPool pool_{1};
  backend::Workspace workspace_;
  kernels::KernelContext context_{pool_, workspace_};
  moe::Counters counters_;
  moe::RoutingMargins routing_;
  std::vector<double> margins_;  // of the rows of the last host_logits()
  select::Policy policy_ = select::make_policy("", "fp32", "");
};

const test::TinySpec kMla{.kv_lora_rank = 128};
const test::TinySpec kGqa{.architecture = formats::Architecture::kQwen3Moe, .layers = by_size(2, 2, 1)};

int argmax(std::span<const float> logits) {
  return static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

TEST(GpuDeviceModel, PromptsGiveTheHostsLogits) {
  for (const auto& spec : {kMla, kGqa}) {
    Both both(spec);
    const std::vector<int> ids = some_ids(kPrompt);
    const std::vector<float> expected = both.host_logits(ids);
    for (const auto cache : {DeviceCacheType::kHalf, DeviceCacheType::kFp8}) {
      DeviceModel device = both.device({.pass_rows = kPrompt, .cache = cache});
      const bool half = cache == DeviceCacheType::kHalf;
      const OrdinaryRows ordinary = half ? kHalfOrdinary : kFp8Ordinary;
      const std::vector<float> reference = both.rows_with_margin(expected, ordinary.margin);
      EXPECT_GE(static_cast<double>(reference.size()), ordinary.share * static_cast<double>(expected.size()));
      // With single runs a cache has one of them.
      const std::vector<int> chunks{kPrompt, 4};
      for (const int chunk : by_size(chunks, chunks, {half ? kPrompt : 5})) {
        const std::vector<float> logits = both.device_logits(device, ids, static_cast<std::size_t>(chunk));
        EXPECT_EQ(test::compare(reference, both.rows_with_margin(logits, ordinary.margin), both.vocab(),
                                half ? kHalfCache : kFp8Cache),
                  "")
            << device_cache_type_name(cache) << " in passes of " << chunk;
        for (const float logit : logits) ASSERT_TRUE(std::isfinite(logit));
      }
      EXPECT_EQ(device.length(0), kPrompt);
    }
  }
}

TEST(GpuDeviceModel, EightBitsOfTheUpProjection) {
  const int count = by_size(kPrompt, 5, 2);
  Both both(kMla);
  const std::vector<int> ids = some_ids(count);
  const std::vector<float> all = both.host_logits(ids),
                           expected = both.rows_with_margin(all, kEightBitsOrdinary.margin);
  EXPECT_GE(static_cast<double>(expected.size()), kEightBitsOrdinary.share * static_cast<double>(all.size()));
  DeviceModel device = both.device({.pass_rows = kPrompt, .kv_b_bits = 8}), exact = both.device({.pass_rows = kPrompt});
  EXPECT_EQ(device.kv_b_bits(), 8);
  EXPECT_EQ(exact.kv_b_bits(), 16);
  EXPECT_LT(device.memory().weights, exact.memory().weights);
  for (const int chunk : by_size<std::vector<int>>({count, 1}, {count, 1}, {1})) {
    const std::vector<float> logits = both.device_logits(device, ids, static_cast<std::size_t>(chunk));
    EXPECT_EQ(
        test::compare(expected, both.rows_with_margin(logits, kEightBitsOrdinary.margin), both.vocab(), kEightBits), "")
        << "in passes of " << chunk;
    EXPECT_NE(logits, both.device_logits(exact, ids, static_cast<std::size_t>(chunk)));
  }
  EXPECT_THROW(both.device({.kv_b_bits = 4}), Error);
}

TEST(GpuDeviceModel, OtherModelsRun) {
  // One query projection, a head that is the embedding, other codebooks.
  const test::TinySpec spec{.q_lora_rank = 0,
                            .kv_lora_rank = 64,
                            .rope_interleave = false,
                            .tie_word_embeddings = true,
                            .all_codebooks = true};
  Both both(spec);
  const std::vector<int> ids = some_ids(5);
  DeviceModel device = both.device({.pass_rows = 5});
  EXPECT_EQ(test::compare(both.host_logits(ids), both.device_logits(device, ids, 5), both.vocab(), kHalfCache), "");
}

TEST(GpuDeviceModel, StepsChooseWhatThePromptsLogitsSay) {
  for (const auto& spec : by_size<std::vector<test::TinySpec>>({kMla, kGqa}, {kMla, kGqa}, {kMla})) {
    Both both(spec);
    // Sequences of different lengths, decoded together.
    constexpr int kLongest = 6;
    std::vector<std::vector<int>> texts = {some_ids(3), some_ids(1, 77), some_ids(kLongest, 200)};
    DeviceModel device = both.device({.sequences = 3, .pass_rows = kLongest + kSteps});
    for (int s = 0; s < 3; ++s) {
      const std::vector<int>& text = texts[static_cast<std::size_t>(s)];
      if (text.size() > 1) device.forward(std::span(text).first(text.size() - 1), s);
    }
    device.start(std::vector<int>{texts[0].back(), texts[1].back(), texts[2].back()});
    device.step();
    for (int i = 0; i < kSteps; ++i) {
      device.step();
      const std::vector<int> chosen = device.take_step();
      for (std::size_t s = 0; s < 3; ++s) texts[s].push_back(chosen[s]);
    }
    device.stop();
    for (int s = 0; s < 3; ++s) {
      const std::vector<int>& text = texts[static_cast<std::size_t>(s)];
      EXPECT_EQ(device.length(s), static_cast<int>(text.size()) - 1);
      const std::vector<float> logits = both.device_logits(device, text, text.size(), s);
      const std::size_t vocab = static_cast<std::size_t>(both.vocab());
      for (std::size_t p = text.size() - 1 - kSteps; p + 1 < text.size(); ++p) {
        const auto row = std::span(logits).subspan(p * vocab, vocab);
        const int best = argmax(row);
        // A step has other kernels than a prompt: another token may win if the two are as good as equal.
        EXPECT_LE(row[static_cast<std::size_t>(best)] - row[static_cast<std::size_t>(text[p + 1])], 0.01f)
            << "sequence " << s << " position " << p;
      }
    }
  }
}

// The device's draws are those of the host's sampler from the device's logits, whose random numbers go on from draw to
// draw.
TEST(GpuDeviceModel, DrawsAsTheHostsSampler) {
  Both both(kGqa);
  const kernels::SampleParams params{.temperature = 1.2f, .top_k = 100, .top_p = 0.9f, .min_p = 0.001f};
  const std::vector<std::uint64_t> seeds{5, 6};
  std::vector<std::vector<int>> texts = {some_ids(4), some_ids(6, 90)};
  const auto vocab = static_cast<std::size_t>(both.vocab());
  DeviceModel device = both.device({.sequences = 2, .pass_rows = 8 + kSteps});
  device.set_sampling(params, seeds);
  std::vector<int> next;
  for (int s = 0; s < 2; ++s) {
    device.forward(texts[static_cast<std::size_t>(s)], s);
    next.push_back(device.choose());
    texts[static_cast<std::size_t>(s)].push_back(next.back());
  }
  device.start(next);
  for (int i = 0; i < kSteps; ++i) {
    device.step();
    const std::vector<int> chosen = device.take_step();
    for (std::size_t s = 0; s < 2; ++s) texts[s].push_back(chosen[s]);
  }
  int differs = 0;
  for (std::size_t s = 0; s < 2; ++s) {
    const std::size_t prompt = s == 0 ? 4 : 6;
    kernels::Sampler sampler(params, seeds[s]);
    const std::vector<float> logits = both.device_logits(device, texts[s], texts[s].size(), static_cast<int>(s));
    for (std::size_t p = prompt - 1; p + 1 < texts[s].size(); ++p) {
      const auto row = std::span(logits).subspan(p * vocab, vocab);
      differs += sampler.sample(row, {}) != texts[s][p + 1] ? 1 : 0;
    }
  }
  // A step's logits are not to the bit those of a prompt of the same text, so a draw near an edge may differ.
  EXPECT_LE(differs, 1 + kSteps / 6);
  device.set_sampling({}, {});
  device.truncate(0, 0);
  device.forward(texts[0]);
  std::vector<float> last(vocab);
  device.logits(static_cast<int>(texts[0].size()) - 1, 1, last.data());
  EXPECT_EQ(device.choose(), argmax(last)) << "greedy again";
}

TEST(GpuDeviceModel, RunsAreRepeatable) {
  Both both(kMla);
  DeviceModel device = both.device({.pass_rows = 16});
  const std::vector<int> ids = some_ids(6);
  const std::vector<float> first = both.device_logits(device, ids, 6);
  EXPECT_EQ(test::compare_exact(first, both.device_logits(device, ids, 6)), "");
}

TEST(GpuDeviceModel, LimitsAreErrors) {
  Both both(kMla);
  const auto kind_of = [](const auto& call) {
    try {
      call();
    } catch (const Error& error) {
      return error.kind();
    }
    return ErrorKind::kCancelled;  // no error
  };
  DeviceModel device = both.device({.sequences = 2, .context = 8, .pass_rows = 16});
  EXPECT_EQ(device.context(), 8);
  EXPECT_EQ(kind_of([&] { device.forward(some_ids(9)); }), ErrorKind::kUsage);
  EXPECT_EQ(kind_of([&] { device.forward(some_ids(17)); }), ErrorKind::kUsage);
  EXPECT_EQ(kind_of([&] { device.forward(std::vector<int>{-1}); }), ErrorKind::kUsage);
  EXPECT_EQ(kind_of([&] { device.forward(some_ids(1), 2); }), ErrorKind::kUsage);
  EXPECT_EQ(kind_of([&] { device.start(some_ids(3)); }), ErrorKind::kUsage);
  EXPECT_EQ(kind_of([&] { device.choose(); }), ErrorKind::kUsage);
  EXPECT_EQ(kind_of([&] { device.set_sampling({.temperature = -1.0f}, {}); }), ErrorKind::kUsage);
  EXPECT_EQ(kind_of([&] { device.set_sampling({.repetition_penalty = 1.1f}, {}); }), ErrorKind::kUnsupported);
  EXPECT_FALSE(device.samples({.temperature = 1.0f, .repetition_penalty = 1.1f}));
  EXPECT_EQ(kind_of([&] { device.step(); }), ErrorKind::kUsage);
  EXPECT_EQ(kind_of([&] { device.take_step(); }), ErrorKind::kUsage);
  EXPECT_EQ(kind_of([&] { both.device({.sequences = 65}); }), ErrorKind::kUsage);
  EXPECT_EQ(kind_of([&] { both.device({.device = 99}); }), ErrorKind::kUsage);
  device.pretend_length(0, 8);
  device.pretend_length(1, 8);
  device.start(some_ids(2));
  EXPECT_EQ(kind_of([&] { device.step(); }), ErrorKind::kUsage) << "the context is full";
}

TEST(GpuDeviceModel, RandomModelsRun) {
  Both both(kMla);
  model::RandomWeights weights;
  weights.expert_bits = {{6, 2, 3}, {6, 3, 4}};
  DeviceModel device = DeviceModel::random(both.host().config(), weights, {.context = 32, .pass_rows = 8});
  device.forward(some_ids(4));
  std::vector<float> logits(static_cast<std::size_t>(both.vocab()));
  device.logits(3, 1, logits.data());
  double norm = 0;
  for (const float v : logits) norm += static_cast<double>(v) * v;
  // Weights are scaled so that outputs have the variance of inputs, and the final norm's is 1.
  EXPECT_NEAR(norm / both.vocab(), 1.0, 0.5);
}

TEST(GpuDeviceModel, EnginesGenerateTheHostsText) {
  const int layers = by_size(2, 1);
  test::TempDir dir;
  write_tiny_checkpoint(dir.path(), {.layers = layers, .kv_lora_rank = 128, .dense_layers = layers - 1},
                        test::TinyForm::kExl3);
  engine::EngineOptions on_host;
  on_host.threads = 1;
  on_host.policy = select::make_policy("", "fp32", "");
  engine::EngineOptions on_device = on_host;
  on_device.device = DeviceModelOptions{.context = 64, .pass_rows = 16};
  engine::Engine host = engine::Engine::load(dir.path(), on_host), device = engine::Engine::load(dir.path(), on_device);
  engine::GenerateOptions options;
  options.max_tokens = by_size(kSteps + 1, 3, 2);
  options.stop_at_eos = false;
  const std::vector<int> prompt = some_ids(5);
  const engine::GenerateResult expected = host.generate(prompt, options), actual = device.generate(prompt, options);
  EXPECT_EQ(actual.ids, expected.ids);
  EXPECT_EQ(actual.text, expected.text);
  EXPECT_EQ(actual.stop, engine::StopReason::kLength);
  // Sampling, on the device and with logits on the host.
  engine::GenerateOptions sampled = options;
  sampled.sample.temperature = 1e-3f;
  EXPECT_EQ(device.generate(prompt, sampled).ids, expected.ids);
  sampled.sample = {.temperature = 1.5f, .top_k = 50, .top_p = 0.95f};
  sampled.seed = 7;
  sampled.max_tokens = by_size(3, 3, 2);
  const std::vector<int> drawn = device.generate(prompt, sampled).ids;
  EXPECT_EQ(device.generate(prompt, sampled).ids, drawn) << "a seed gives one text";
  engine::GenerateOptions from_host = sampled;
  from_host.top_logprobs = from_host.max_tokens = 1;  // needs the logits there
  // A token's logits come from other kernels where it was fed by forward(), so only the first has the same ones.
  EXPECT_EQ(device.generate(prompt, from_host).ids.front(), drawn.front());
  sampled.sample.repetition_penalty = 1.3f;
  sampled.max_tokens = 2;
  EXPECT_EQ(device.generate(prompt, sampled).ids.size(), 2u) << "on the host again";
  const std::vector<float> logprobs = device.logprobs(prompt), reference = host.logprobs(prompt);
  for (std::size_t i = 0; i < reference.size(); ++i) EXPECT_NEAR(logprobs[i], reference[i], 0.05);
}

}  // namespace
}  // namespace fairway
