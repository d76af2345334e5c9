// The ids of words seen before. Text repeats its words, so most of them need no merging.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/bpe.h"

namespace fairway::formats {

// Not safe to share between threads without a lock.
class WordCache {
 public:
  // Appends the ids of `word`, from the cache or from the model.
  void encode(const BpeModel& model, std::string_view word, std::vector<int>& ids) {
    if (word.size() > kMaxWordBytes) return model.encode(word, ids);
    if (const auto found = words_.find(word); found != words_.end()) {
      const auto begin = pool_.begin() + static_cast<std::ptrdiff_t>(found->second.begin);
      ids.insert(ids.end(), begin, begin + static_cast<std::ptrdiff_t>(found->second.count));
      return;
    }
    const std::size_t before = ids.size();
    model.encode(word, ids);
    if (words_.size() == kMaxWords) {  // starting over is rare, and needs no bookkeeping of what was used when
      words_.clear();
      pool_.clear();
    }
    words_.emplace(std::string(word), Entry{pool_.size(), ids.size() - before});
    pool_.insert(pool_.end(), ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end());
  }

 private:
  static constexpr std::size_t kMaxWordBytes = 64;   // longer ones hardly ever repeat
  static constexpr std::size_t kMaxWords = 1 << 16;  // bounds the cache to about 10 MB
  struct Entry {
    std::size_t begin;
    std::size_t count;
  };
  StringMap<Entry> words_;
  std::vector<int> pool_;
};

}  // namespace fairway::formats
