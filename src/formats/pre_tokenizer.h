// The pre_tokenizer of tokenizer.json: cuts text into the words that byte pair encoding never crosses.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json_field.h"

namespace fairway::formats {

// Words as bytes, one behind the other; word i is bytes[ends[i - 1] .. ends[i]), and none is empty.
struct Words {
  std::string bytes;
  std::vector<std::size_t> ends;
};

class PreTokenizer {
 public:
  // Split, ByteLevel, Digits and Sequence of these, with exactly one ByteLevel. Error(kUnsupported) naming any other
  // kind, or a pattern that ICU cannot match as Oniguruma does; Error(kBadInput) for a malformed one.
  static PreTokenizer parse(const JsonField& field);

  // Replaces `words`. `text` must be valid UTF-8. Safe to call from several threads. Throws Error(kResource) if a
  // pattern needs more time or memory on this text than it may take.
  void split(std::string_view text, Words& words) const;

  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

 private:
  PreTokenizer();
  struct Steps;
  std::unique_ptr<Steps> steps_;
};

}  // namespace fairway::formats
