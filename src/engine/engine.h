// The generation loop: prompt in, tokens out, with statistics.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer.h"
#include "kernels/sample/sample.h"
#include "model/device_model.h"
#include "model/model.h"
#include "moe/counters.h"
#include "select/select.h"

namespace fairway::engine {

struct EngineOptions {
  int threads = 0;          // <= 0: one per processor
  select::Policy policy;    // from select::make_policy
  int prefill_chunk = 512;  // tokens per forward pass of a prompt
  bool timed = false;       // keep the seconds of each moe::Stage
  std::function<void(int done, int total)> load_progress;
  // Set: the model runs on a CUDA device. The policy and the threads then serve what is left on the host.
  std::optional<model::DeviceModelOptions> device;
};

struct GenerateOptions {
  int max_tokens = 128;  // new tokens
  kernels::SampleParams sample;
  std::uint64_t seed = 0;
  bool stop_at_eos = true;
  const std::atomic<bool>* cancel = nullptr;  // checked between forward passes
  // So many of the likeliest tokens of every step are reported. On a device every step's logits then come to the host.
  int top_logprobs = 0;
};

struct TokenLogprob {
  int id;
  double logprob;  // natural logarithm
};

enum class StopReason { kLength, kEos, kCancelled, kContextFull };
const char* stop_reason_name(StopReason reason);  // "length", "eos", "cancelled", "context_full"

struct GenerateResult {
  std::vector<int> ids;  // new tokens only, without the prompt; an end-of-text token is included
  std::string text;      // of the new tokens
  // For each of ids, if wanted: the likeliest tokens at its place, the likeliest first, ties to the lower id.
  std::vector<std::vector<TokenLogprob>> top_logprobs;
  int prompt_tokens = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;                 // after the first new token
  moe::StageSeconds decode_stage_seconds{};  // parts of decode_seconds, if the engine is timed
  StopReason stop = StopReason::kLength;
  // Decoded tokens after the first, per second; 0 if there were none.
  double tokens_per_second() const;
};

class Engine {
 public:
  static Engine load(const std::filesystem::path& model_dir, const EngineOptions& options);

  const model::Model& model() const;
  const model::DeviceModel* device() const;  // null if the model runs on the host
  const formats::Tokenizer& tokenizer() const;
  int threads() const;
  double load_seconds() const;
  const moe::Counters& counters() const;
  void reset_counters();

  // Prompt ids: bos (if the tokenizer has one) and the text's tokens.
  std::vector<int> encode_prompt(std::string_view text) const;

  // on_text gets complete UTF-8 as it becomes available. Starts from an empty cache.
  GenerateResult generate(std::span<const int> prompt, const GenerateOptions& options,
                          const std::function<void(std::string_view)>& on_text = {});

  // log p(ids[i] | ids[0..i)) for i = 1 .. size-1, natural logarithm, from an empty cache.
  std::vector<float> logprobs(std::span<const int> ids, const std::atomic<bool>* cancel = nullptr);

  // Has the host's forward passes report how near their routers' choices come to others, and gives the margins of all
  // rows since the last call, in their order (moe/routing_margins.h). Error(kUsage) on a device.
  void watch_routing();
  std::vector<double> take_routing_margins();

  // Logits after the last id, [vocab_size], from an empty cache.
  std::vector<float> last_logits(std::span<const int> ids);

  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;
  ~Engine();

 private:
  Engine();
  friend class Comparison;    // takes several engines through a window in step
  friend class TokenChooser;  // generate()'s
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fairway::engine
