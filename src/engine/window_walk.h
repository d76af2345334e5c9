// The order in which a window is evaluated: forward passes in chunks, then the head over blocks of their rows.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <span>

#include "engine/state.h"
#include "fairway/error.h"

namespace fairway::engine {

struct RowBlock {
  std::size_t position;  // of its first row in the window
  std::size_t row;       // the same in the chunk
  std::size_t rows;
};

// Rows of logits held at a time: 4 Mi floats (16 MB) or at least 16 rows, so that a vocabulary of 150,000 does not cost
// hundreds of megabytes and a trellis-coded head is still decoded for many rows at once.
constexpr int logit_rows(int vocab_size) {
  constexpr int kLogitElems = 4 << 20;
  return std::clamp(kLogitElems / vocab_size, 16, 256);
}

// forward(ids) for each chunk of `inputs`, and after each of them head(block) for its rows, `block_rows` at a time.
// Error(kCancelled) before a block if `cancel` is set.
template <class Forward, class Head>
void walk_window(std::span<const int> inputs, std::size_t chunk, std::size_t block_rows,
                 const std::atomic<bool>* cancel, const Forward& forward, const Head& head) {
  for (std::size_t begin = 0; begin < inputs.size();) {
    const std::size_t count = std::min(inputs.size() - begin, chunk);
    forward(inputs.subspan(begin, count));
    for (std::size_t row = 0; row < count; row += block_rows) {
      if (is_cancelled(cancel)) throw Error(ErrorKind::kCancelled, "evaluation was cancelled");
      head(RowBlock{begin + row, row, std::min(block_rows, count - row)});
    }
    begin += count;
  }
}

}  // namespace fairway::engine
