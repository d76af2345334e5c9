// What an engine keeps between calls, and the forward passes that generation and evaluation share.
#pragma once

#include <utility>

#include "backend/cpu/thread_pool.h"
#include "backend/cpu/workspace.h"
#include "engine/engine.h"
#include "kernels/common/context.h"
#include "moe/routing_margins.h"

namespace fairway::engine {

struct Engine::State {
  State(const EngineOptions& engine_options, model::Model loaded, formats::Tokenizer loaded_tokenizer)
      : options(engine_options),
        model(std::move(loaded)),
        tokenizer(std::move(loaded_tokenizer)),
        pool(engine_options.threads),
        cache(model.config()) {
    counters.timed = options.timed;
  }

  int hidden_size() const { return model.config().hidden_size; }
  int vocab_size() const { return model.config().vocab_size; }

  // Positions that a sequence may have.
  int context() const;
  // Forgets all of them.
  void restart();

  // Error(kUsage) unless `tokens` fit a fresh context.
  void check_fits(std::size_t tokens) const;

  // Runs the chunk; the result is in `hidden`, [ids.size(), hidden_size], or on the device.
  void forward(std::span<const int> ids);

  // Runs all ids in chunks. False if cancelled between two chunks.
  bool prefill(std::span<const int> ids, const std::atomic<bool>* cancel);

  // Logits of the last row of the last chunk into `logits`.
  void last_row_logits();

  // Empties the cache for a window and returns its inputs: all but the last id, which is only predicted. At least two
  // ids. Error(kUsage) if they do not fit, or the last one is out of range; forward() checks the others.
  std::span<const int> start_window(std::span<const int> ids);

  // Logits of `rows` rows of the last chunk from `row` on into `logits`, [rows, vocab_size].
  void block_logits(std::size_t row, std::size_t rows);

  EngineOptions options;
  model::Model model;
  formats::Tokenizer tokenizer;
  backend::ThreadPool pool;
  backend::Workspace workspace;
  kernels::KernelContext kernel_context{pool, workspace};
  model::KvCache cache;
  std::optional<model::DeviceModel> device;
  moe::Counters counters;
  moe::RoutingMargins routing;
  double load_seconds = 0;
  std::vector<float> hidden, logits;
};

inline bool is_cancelled(const std::atomic<bool>* cancel) {
  return cancel != nullptr && cancel->load(std::memory_order_relaxed);
}

}  // namespace fairway::engine
