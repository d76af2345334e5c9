// Merging: by repeated scans for the short words of real text, by a heap for long ones.
#include "formats/bpe.h"

#include <fmt/format.h>

#include <bit>
#include <limits>
#include <queue>
#include <tuple>

#include "formats/byte_symbols.h"

namespace fairway::formats {
namespace {

constexpr std::uint64_t kEmptyKey = ~std::uint64_t{0};  // ids are below 2^24, so no pair has it
constexpr std::uint32_t kNoRank = std::numeric_limits<std::uint32_t>::max();
// Scans are quadratic, but their rows are in the L1 cache and need no allocation; a heap pays off beyond this.
constexpr std::size_t kShortWord = 48;

std::uint64_t pair_key(int left, int right) {
  return (std::uint64_t{static_cast<std::uint32_t>(left)} << 32) | static_cast<std::uint32_t>(right);
}

}  // namespace

MergeTable::MergeTable(std::size_t merges)
    : slots_(std::bit_ceil(2 * merges + 2), Slot{kEmptyKey, Merge{kNoRank, -1}}) {}

std::size_t MergeTable::slot_of(std::uint64_t key) const {
  const std::size_t mask = slots_.size() - 1;
  // Multiplication by 2^64 / golden ratio; the high half depends on every bit of both ids.
  std::size_t slot = static_cast<std::size_t>((key * 0x9E3779B97F4A7C15u) >> 32) & mask;
  while (slots_[slot].key != key && slots_[slot].key != kEmptyKey) slot = (slot + 1) & mask;
  return slot;
}

void MergeTable::set(int left, int right, Merge merge) {
  const std::uint64_t key = pair_key(left, right);
  slots_[slot_of(key)] = {key, merge};
}

const Merge* MergeTable::find(int left, int right) const {
  const std::uint64_t key = pair_key(left, right);
  const Slot& slot = slots_[slot_of(key)];
  return slot.key == key ? &slot.merge : nullptr;
}

int BpeModel::id_of(std::string_view symbols) const {
  const auto found = vocabulary_.find(symbols);
  return found == vocabulary_.end() ? -1 : found->second;
}

void BpeModel::encode(std::string_view word, std::vector<int>& ids) const {
  if (ignore_merges_) {
    if (const int id = id_of(bytes_to_symbols(word)); id >= 0) {
      ids.push_back(id);
      return;
    }
  }
  std::vector<int> symbols;
  symbols.reserve(word.size());
  for (const char c : word) {
    const auto byte = static_cast<std::uint8_t>(c);
    if (byte_ids_[byte] < 0) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: model.vocab: the text has byte {:02X}, but there is no token for it", file_, byte));
    }
    symbols.push_back(byte_ids_[byte]);
  }
  if (symbols.size() <= kShortWord) {
    merge_short(symbols);
  } else {
    merge_long(symbols);
  }
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

void BpeModel::merge_short(std::vector<int>& word) const {
  std::array<Merge, kShortWord> merge;  // of word[i] and word[i + 1]
  std::size_t count = word.size();
  const auto look_up = [&](std::size_t i) {
    const Merge* found = merges_.find(word[i], word[i + 1]);
    merge[i] = found != nullptr ? *found : Merge{kNoRank, -1};
  };
  for (std::size_t i = 0; i + 1 < count; ++i) look_up(i);
  while (count > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < count; ++i) {
      if (merge[i].rank < merge[best].rank) best = i;
    }
    if (merge[best].rank == kNoRank) break;
    word[best] = merge[best].id;
    for (std::size_t i = best + 1; i + 1 < count; ++i) {
      word[i] = word[i + 1];
      merge[i] = merge[i + 1];
    }
    --count;
    if (best + 1 < count) look_up(best);
    if (best > 0) look_up(best - 1);
  }
  word.resize(count);
}

void BpeModel::merge_long(std::vector<int>& word) const {
  constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
  struct Symbol {
    int id;  // -1 once it is part of its left neighbour
    std::size_t previous;
    std::size_t next;
  };
  // rank, position of the left token, both ids when it was queued, and the result. Lowest rank, then leftmost, first.
  using Candidate = std::tuple<std::uint32_t, std::size_t, int, int, int>;
  std::vector<Symbol> symbols(word.size());
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](std::size_t left) {
    const std::size_t right = symbols[left].next;
    if (right == kNone) return;
    if (const Merge* found = merges_.find(symbols[left].id, symbols[right].id)) {
      queue.emplace(found->rank, left, symbols[left].id, symbols[right].id, found->id);
    }
  };
  for (std::size_t i = 0; i < word.size(); ++i) {
    symbols[i] = {word[i], i == 0 ? kNone : i - 1, i + 1 == word.size() ? kNone : i + 1};
  }
  for (std::size_t i = 0; i < word.size(); ++i) offer(i);
  while (!queue.empty()) {
    const auto [rank, left, left_id, right_id, id] = queue.top();
    queue.pop();
    const std::size_t right = symbols[left].next;
    // Entries are not removed when a neighbour changes; one that no longer describes its place is stale.
    if (symbols[left].id != left_id || right == kNone || symbols[right].id != right_id) continue;
    symbols[left].id = id;
    symbols[left].next = symbols[right].next;
    symbols[right].id = -1;
    if (symbols[left].next != kNone) symbols[symbols[left].next].previous = left;
    if (symbols[left].previous != kNone) offer(symbols[left].previous);
    offer(left);
  }
  word.clear();
  for (std::size_t i = 0; i != kNone; i = symbols[i].next) word.push_back(symbols[i].id);
}

}  // namespace fairway::formats
