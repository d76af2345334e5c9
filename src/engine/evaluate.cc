// Log-probabilities of given tokens, for perplexity and for comparison with other implementations.
#include <fmt/format.h>

#include "engine/log_softmax.h"
#include "engine/state.h"
#include "engine/window_walk.h"
#include "fairway/error.h"

namespace fairway::engine {

std::span<const int> Engine::State::start_window(std::span<const int> ids) {
  const std::span<const int> inputs = ids.first(ids.size() - 1);
  check_fits(inputs.size());
  const int last = ids.back();
  if (last < 0 || last >= vocab_size()) {
    throw Error(ErrorKind::kUsage, fmt::format("token {} has id {}, expected 0 .. {} (vocab_size {})", ids.size() - 1,
                                               last, vocab_size() - 1, vocab_size()));
  }
  restart();
  return inputs;
}

void Engine::State::block_logits(std::size_t row, std::size_t rows) {
  logits.resize(rows * static_cast<std::size_t>(vocab_size()));
  if (device) {
    device->logits(static_cast<int>(row), static_cast<int>(rows), logits.data());
    return;
  }
  model.logits(hidden.data() + row * static_cast<std::size_t>(hidden_size()), static_cast<int>(rows), options.policy,
               kernel_context, counters, logits.data());
}

std::vector<float> Engine::logprobs(std::span<const int> ids, const std::atomic<bool>* cancel) {
  State& s = *state_;
  if (ids.size() < 2) return {};
  const std::span<const int> inputs = s.start_window(ids);
  std::vector<float> result(inputs.size());
  const std::size_t vocab = static_cast<std::size_t>(s.vocab_size());
  const auto forward = [&](std::span<const int> chunk) { s.forward(chunk); };
  const auto head = [&](const RowBlock& block) {
    s.block_logits(block.row, block.rows);
    s.pool.parallel_for(static_cast<std::int64_t>(block.rows), [&](std::int64_t task, int) {
      const std::size_t i = static_cast<std::size_t>(task);
      const std::span<const float> logits = std::span(s.logits).subspan(i * vocab, vocab);
      result[block.position + i] = static_cast<float>(log_softmax_at(logits, ids[block.position + i + 1]));
    });
  };
  walk_window(inputs, static_cast<std::size_t>(s.options.prefill_chunk),
              static_cast<std::size_t>(logit_rows(s.vocab_size())), cancel, forward, head);
  return result;
}

void Engine::watch_routing() {
  if (state_->device) {
    throw Error(ErrorKind::kUsage, "margins of routers are known on the CPU only; on a device they stay there");
  }
  state_->routing.watch(state_->counters);
}

std::vector<double> Engine::take_routing_margins() {
  return state_->routing.take();
}

std::vector<float> Engine::last_logits(std::span<const int> ids) {
  State& s = *state_;
  if (ids.empty()) throw Error(ErrorKind::kUsage, "last_logits needs at least one token");
  s.check_fits(ids.size());
  s.restart();
  s.prefill(ids, nullptr);
  s.last_row_logits();
  return s.logits;
}

}  // namespace fairway::engine
