// Byte-level byte pair encoding: the model of tokenizer.json.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "formats/json_field.h"

namespace fairway::formats {

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
template <typename Value>
using StringMap = std::unordered_map<std::string, Value, StringHash, std::equal_to<>>;

// What two neighbouring tokens become, and how early: the lowest rank is merged first.
struct Merge {
  std::uint32_t rank;
  int id;
};

// Open addressing over (left id, right id); built once, then only read.
class MergeTable {
 public:
  explicit MergeTable(std::size_t merges = 0);
  void set(int left, int right, Merge merge);  // the last one given for a pair stays, as in Hugging Face tokenizers
  const Merge* find(int left, int right) const;

 private:
  struct Slot {
    std::uint64_t key;
    Merge merge;
  };
  std::size_t slot_of(std::uint64_t key) const;
  std::vector<Slot> slots_;  // a power of two, at most half full
};

class BpeModel {
 public:
  // Throws Error(kUnsupported) naming a model type or option that is not byte-level BPE, Error(kBadInput) for ids out
  // of range or given twice, and for merges of or to tokens that the vocabulary lacks.
  static BpeModel parse(const JsonField& field);

  // Token texts as written in the file, in byte symbols.
  const StringMap<int>& vocabulary() const { return vocabulary_; }
  int id_of(std::string_view symbols) const;  // -1 if none

  // Appends the ids of one word, given as bytes. Throws Error(kBadInput) if a byte has no token.
  void encode(std::string_view word, std::vector<int>& ids) const;

 private:
  void parse_vocabulary(const JsonField& field);
  void parse_merges(const JsonField& field);
  void merge_short(std::vector<int>& word) const;
  void merge_long(std::vector<int>& word) const;

  std::string file_;
  StringMap<int> vocabulary_;
  MergeTable merges_;
  std::array<int, 256> byte_ids_{};  // -1 where the vocabulary has no symbol for the byte
  bool ignore_merges_ = false;       // a word that is in the vocabulary is one token, whatever the merges say
};

}  // namespace fairway::formats
