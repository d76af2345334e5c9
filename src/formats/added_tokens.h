// The added_tokens of tokenizer.json: texts that become one id before anything else looks at them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/json_field.h"
#include "formats/text_normalizer.h"

namespace fairway::formats {

struct AddedToken {
  int id = -1;
  std::string content;       // as written in the file
  std::string pattern;       // what is searched for: the content, normalized if `normalized`
  bool single_word = false;  // matches only where no word character adjoins
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // and after it
  bool normalized = false;   // is searched for in normalized text
  bool special = false;      // left out of decoded text
};

// Reads the array; a token with empty content is dropped. Throws Error(kBadInput) for ids out of range, or two tokens
// with one id or one content.
std::vector<AddedToken> parse_added_tokens(const JsonField& field, const TextNormalizer& normalizer);

// Finds a set of added tokens in text: leftmost first, the longest of those that begin at the same byte.
class AddedTokenFinder {
 public:
  AddedTokenFinder() = default;
  // The tokens must outlive this; their patterns are distinct and not empty.
  explicit AddedTokenFinder(const std::vector<const AddedToken*>& tokens);

  bool empty() const { return nodes_.size() <= 1; }

  // Calls found(id, text) for every token and found(-1, text) for what lies between, in order, never with empty text
  // for the latter. `text` must be valid UTF-8.
  void for_each(std::string_view text, const std::function<void(int, std::string_view)>& found) const;

 private:
  struct Node {
    const AddedToken* token = nullptr;
    std::vector<std::pair<std::uint8_t, std::uint32_t>> children;  // byte, node
  };
  std::uint32_t child(std::uint32_t node, std::uint8_t byte) const;  // 0 if none: the root is nobody's child
  const AddedToken* longest_at(std::string_view text, std::size_t position) const;

  std::vector<Node> nodes_;
  std::vector<std::uint32_t> roots_;  // by first byte, 0 if none
};

}  // namespace fairway::formats
