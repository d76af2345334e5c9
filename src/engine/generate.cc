// The generation loop: prefill in chunks, then one token per forward pass until a reason to stop.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "engine/log_softmax.h"
#include "engine/state.h"
#include "fairway/error.h"

namespace fairway::engine {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Text of the result, handed on as it becomes complete.
class TextStream {
 public:
  TextStream(const formats::Tokenizer& tokenizer, const std::function<void(std::string_view)>& on_text,
             std::string& text)
      : decoder_(tokenizer), on_text_(on_text), text_(text) {}

  void push(int id) { emit(decoder_.push(id)); }
  void flush() { emit(decoder_.flush()); }

 private:
  void emit(const std::string& piece) {
    if (piece.empty()) return;
    text_ += piece;
    if (on_text_) on_text_(piece);
  }

  formats::StreamDecoder decoder_;
  const std::function<void(std::string_view)>& on_text_;
  std::string& text_;
};

// Why to stop after the newest token, if there is a reason.
std::optional<StopReason> stop_after(int id, std::size_t produced, int cached, int context, std::span<const int> eos,
                                     const GenerateOptions& options) {
  if (options.stop_at_eos && std::find(eos.begin(), eos.end(), id) != eos.end()) return StopReason::kEos;
  if (produced >= static_cast<std::size_t>(options.max_tokens)) return StopReason::kLength;
  if (is_cancelled(options.cancel)) return StopReason::kCancelled;
  if (cached >= context) return StopReason::kContextFull;
  return std::nullopt;
}

}  // namespace

// Feeds tokens and chooses the next one. On a device choices are made there and logits stay there, if nobody else wants
// them; while one token is read the next is already being computed, and what was computed too many is forgotten.
class TokenChooser {
 public:
  TokenChooser(Engine::State& state, const GenerateOptions& options)
      : state_(state),
        sampler_(options.sample, options.seed),
        on_device_(state.device && state.device->samples(options.sample) && options.top_logprobs == 0) {
    if (on_device_) state_.device->set_sampling(options.sample, std::span(&options.seed, 1));
  }
  ~TokenChooser() {
    if (on_device_) state_.device->stop();
  }
  TokenChooser(const TokenChooser&) = delete;
  TokenChooser& operator=(const TokenChooser&) = delete;

  // Waits for the prompt's last logits, or for the token that was chosen from them.
  void finish_prompt() {
    if (on_device_) {
      first_ = state_.device->choose();
    } else {
      state_.last_row_logits();
    }
  }

  // After finish_prompt() or feed().
  int choose(std::span<const int> history) {
    if (!on_device_) return sampler_.sample(state_.logits, history);
    if (!started_) return first_;
    step_if_room();
    return state_.device->take_step().front();
  }

  void feed(int id) {
    if (!on_device_) {
      state_.forward(std::span(&id, 1));
      state_.last_row_logits();
    } else if (!started_) {
      state_.device->start(std::span(&id, 1));
      state_.device->step();
      started_ = true;
    }  // else the device has fed it to itself
  }

 private:
  void step_if_room() {
    if (state_.device->length(0) < state_.device->context()) state_.device->step();
  }

  Engine::State& state_;
  kernels::Sampler sampler_;
  bool on_device_, started_ = false;
  int first_ = 0;  // token that the device chose after the prompt
};

const char* stop_reason_name(StopReason reason) {
  switch (reason) {
    case StopReason::kLength:
      return "length";
    case StopReason::kEos:
      return "eos";
    case StopReason::kCancelled:
      return "cancelled";
    case StopReason::kContextFull:
      return "context_full";
  }
  throw Error(ErrorKind::kUsage, fmt::format("unknown stop reason {}", static_cast<int>(reason)));
}

double GenerateResult::tokens_per_second() const {
  if (ids.size() < 2 || decode_seconds <= 0) return 0;
  return static_cast<double>(ids.size() - 1) / decode_seconds;
}

GenerateResult Engine::generate(std::span<const int> prompt, const GenerateOptions& options,
                                const std::function<void(std::string_view)>& on_text) {
  State& s = *state_;
  if (options.max_tokens < 0) {
    throw Error(ErrorKind::kUsage, fmt::format("max_tokens is {}, expected at least 0", options.max_tokens));
  }
  if (options.top_logprobs < 0) {
    throw Error(ErrorKind::kUsage, fmt::format("top_logprobs is {}, expected at least 0", options.top_logprobs));
  }
  std::vector<int> history(prompt.begin(), prompt.end());
  if (history.empty() && s.tokenizer.bos_id() >= 0) history.push_back(s.tokenizer.bos_id());
  if (history.empty()) {
    throw Error(ErrorKind::kUsage, "the prompt is empty and the tokenizer has no token that begins a text");
  }
  s.check_fits(history.size());
  TokenChooser chooser(s, options);

  GenerateResult result;
  result.prompt_tokens = static_cast<int>(history.size());
  if (options.max_tokens == 0) return result;
  s.restart();
  const auto prefill_begin = Clock::now();
  const bool complete = s.prefill(history, options.cancel);
  if (!complete) {
    result.stop = StopReason::kCancelled;
    result.prefill_seconds = seconds_since(prefill_begin);
    return result;
  }
  chooser.finish_prompt();
  result.prefill_seconds = seconds_since(prefill_begin);

  const auto keep_logprobs = [&] {
    std::vector<TokenLogprob>& row = result.top_logprobs.emplace_back();
    for (const int id : largest_logits(s.logits, options.top_logprobs)) {
      row.push_back({id, log_softmax_at(s.logits, id)});
    }
  };
  TextStream stream(s.tokenizer, on_text, result.text);
  auto decode_begin = Clock::now();
  moe::StageSeconds stages_before{};
  for (;;) {
    if (options.top_logprobs > 0) keep_logprobs();
    const int id = chooser.choose(history);
    history.push_back(id);
    result.ids.push_back(id);
    if (result.ids.size() == 1) {
      decode_begin = Clock::now();
      stages_before = s.counters.stage_seconds;
    }
    stream.push(id);
    const int cached = static_cast<int>(history.size()) - 1;
    const auto stop = stop_after(id, result.ids.size(), cached, s.context(), s.model.config().eos_token_ids, options);
    if (stop) {
      result.stop = *stop;
      break;
    }
    chooser.feed(id);
  }
  result.decode_seconds = seconds_since(decode_begin);
  for (std::size_t i = 0; i < moe::kStages; ++i) {
    result.decode_stage_seconds[i] = s.counters.stage_seconds[i] - stages_before[i];
  }
  stream.flush();
  return result;
}

}  // namespace fairway::engine
