// Bounds on what a tokenizer file may contain.
#pragma once

#include <cstddef>

namespace fairway::formats {

// 16 million ids: sixty times the largest published vocabulary, and ids of every kind fit an int.
constexpr int kMaxTokenId = (1 << 24) - 1;

// The largest published tokenizer.json has 33 MB.
constexpr std::size_t kMaxTokenizerBytes = std::size_t{256} << 20;

}  // namespace fairway::formats
