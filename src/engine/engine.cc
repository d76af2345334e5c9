// Loading an engine and the forward passes that generation and evaluation share.
#include "engine/engine.h"

#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <chrono>

#include "engine/state.h"
#include "fairway/error.h"
#include "model/early_start.h"

namespace fairway::engine {

int Engine::State::context() const {
  return device ? device->context() : model.config().max_position_embeddings;
}

void Engine::State::restart() {
  cache.truncate(0);
  if (device) device->truncate(0, 0);
}

void Engine::State::check_fits(std::size_t tokens) const {
  const int limit = model.config().max_position_embeddings;
  if (device && tokens > static_cast<std::size_t>(device->context())) {
    throw Error(ErrorKind::kUsage, fmt::format("{} tokens do not fit the {} positions of the context on the device",
                                               tokens, device->context()));
  }
  if (tokens > static_cast<std::size_t>(limit)) {
    throw Error(ErrorKind::kUsage, fmt::format("{} tokens do not fit the context: max_position_embeddings of {} is {}",
                                               tokens, model.checkpoint().directory().string(), limit));
  }
}

void Engine::State::forward(std::span<const int> ids) {
  if (device) {
    device->forward(ids);
  } else {
    model.forward(ids, cache, options.policy, kernel_context, counters, hidden);
  }
}

bool Engine::State::prefill(std::span<const int> ids, const std::atomic<bool>* cancel) {
  for (std::size_t begin = 0; begin < ids.size();) {
    if (is_cancelled(cancel)) return false;
    const std::size_t count = std::min(ids.size() - begin, static_cast<std::size_t>(options.prefill_chunk));
    forward(ids.subspan(begin, count));
    begin += count;
  }
  return true;
}

void Engine::State::last_row_logits() {
  logits.resize(static_cast<std::size_t>(vocab_size()));
  if (device) {
    device->logits(device->forward_rows() - 1, 1, logits.data());
    return;
  }
  const float* last = hidden.data() + hidden.size() - static_cast<std::size_t>(hidden_size());
  model.logits(last, 1, options.policy, kernel_context, counters, logits.data());
}

Engine::Engine() = default;
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

Engine Engine::load(const std::filesystem::path& model_dir, const EngineOptions& options) {
  if (options.prefill_chunk < 1) {
    throw Error(ErrorKind::kUsage, fmt::format("prefill_chunk is {}, expected at least 1", options.prefill_chunk));
  }
  const auto begin = std::chrono::steady_clock::now();
  std::optional<model::EarlyStart> early;
  if (options.device) early.emplace(model_dir, options.device->device);
  model::Model model = model::Model::load(model_dir, options.load_progress);
  Engine engine;
  engine.state_ = std::make_unique<State>(options, std::move(model), formats::Tokenizer::load(model_dir));
  if (options.device) {
    State& s = *engine.state_;
    s.device.emplace(model::DeviceModel::load(s.model, *options.device));
    s.options.prefill_chunk = std::min(s.options.prefill_chunk, s.device->pass_rows());
  }
  malloc_trim(0);  // what parsing left behind is not part of the model
  engine.state_->load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return engine;
}

const model::Model& Engine::model() const {
  return state_->model;
}
const model::DeviceModel* Engine::device() const {
  return state_->device ? &*state_->device : nullptr;
}
const formats::Tokenizer& Engine::tokenizer() const {
  return state_->tokenizer;
}
int Engine::threads() const {
  return state_->pool.size();
}
double Engine::load_seconds() const {
  return state_->load_seconds;
}
const moe::Counters& Engine::counters() const {
  return state_->counters;
}
void Engine::reset_counters() {
  state_->counters = {};
  state_->counters.timed = state_->options.timed;
}

std::vector<int> Engine::encode_prompt(std::string_view text) const {
  std::vector<int> ids;
  if (state_->tokenizer.bos_id() >= 0) ids.push_back(state_->tokenizer.bos_id());
  const std::vector<int> tokens = state_->tokenizer.encode(text);
  ids.insert(ids.end(), tokens.begin(), tokens.end());
  return ids;
}

}  // namespace fairway::engine
