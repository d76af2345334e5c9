// Log-probabilities of given tokens, for perplexity and for comparison with other implementations.
#include <fmt/format.h>

#include <algorithm>

#include "engine/log_softmax.h"
#include "engine/state.h"
#include "fairway/error.h"

namespace fairway::engine {
namespace {

// Logits held at a time: 4 Mi floats (16 MB) or at least 16 rows, so that a vocabulary of 150,000 does not cost
// hundreds of megabytes and a trellis-coded head is still decoded for many rows at once.
constexpr int kLogitElems = 4 << 20;
constexpr int kMinLogitRows = 16;
constexpr int kMaxLogitRows = 256;

int logit_rows(int vocab_size) {
  return std::clamp(kLogitElems / vocab_size, kMinLogitRows, kMaxLogitRows);
}

}  // namespace

std::vector<float> Engine::logprobs(std::span<const int> ids, const std::atomic<bool>* cancel) {
  State& s = *state_;
  if (ids.size() < 2) return {};
  const std::span<const int> inputs = ids.first(ids.size() - 1);  // the last token is only predicted
  s.check_fits(inputs.size());
  const int last = ids.back();
  if (last < 0 || last >= s.vocab_size()) {
    throw Error(ErrorKind::kUsage, fmt::format("token {} has id {}, expected 0 .. {} (vocab_size {})", ids.size() - 1,
                                               last, s.vocab_size() - 1, s.vocab_size()));
  }
  s.cache.truncate(0);
  std::vector<float> result(inputs.size());
  const std::size_t block = static_cast<std::size_t>(logit_rows(s.vocab_size()));
  const std::size_t vocab = static_cast<std::size_t>(s.vocab_size());
  for (std::size_t begin = 0; begin < inputs.size();) {
    const std::size_t count = std::min(inputs.size() - begin, static_cast<std::size_t>(s.options.prefill_chunk));
    s.forward(inputs.subspan(begin, count));
    for (std::size_t row = 0; row < count; row += block) {
      if (is_cancelled(cancel)) throw Error(ErrorKind::kCancelled, "evaluation was cancelled");
      const std::size_t rows = std::min(block, count - row);
      s.logits.resize(rows * vocab);
      s.model.logits(s.hidden.data() + row * static_cast<std::size_t>(s.hidden_size()), static_cast<int>(rows),
                     s.options.policy, s.context, s.counters, s.logits.data());
      s.pool.parallel_for(static_cast<std::int64_t>(rows), [&](std::int64_t task, int) {
        const std::size_t i = static_cast<std::size_t>(task);
        const std::size_t position = begin + row + i;
        result[position] =
            static_cast<float>(log_softmax_at(std::span(s.logits).subspan(i * vocab, vocab), ids[position + 1]));
      });
    }
    begin += count;
  }
  return result;
}

std::vector<float> Engine::last_logits(std::span<const int> ids) {
  State& s = *state_;
  if (ids.empty()) throw Error(ErrorKind::kUsage, "last_logits needs at least one token");
  s.check_fits(ids.size());
  s.cache.truncate(0);
  s.prefill(ids, nullptr);
  s.last_row_logits();
  return s.logits;
}

}  // namespace fairway::engine
