// One Split of a pre-tokenizer: a Unicode regular expression and what becomes of its matches.
#pragma once

#include <unicode/regex.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json_field.h"

namespace fairway::formats {

// [begin, end) in UTF-16 units.
struct UnitRange {
  std::int32_t begin;
  std::int32_t end;
};

enum class SplitBehavior {
  kIsolated,            // matches and what lies between them are pieces
  kRemoved,             // matches are dropped
  kMergedWithPrevious,  // a match belongs to the piece before it
  kMergedWithNext,      // or to the piece after it
  kContiguous,          // neighbouring matches are one piece
};

class SplitPattern {
 public:
  // `pattern` in Oniguruma's syntax; `field` is named in errors.
  static SplitPattern from_regex(const std::string& pattern, SplitBehavior behavior, bool invert,
                                 const JsonField& field);
  static SplitPattern from_text(const std::string& text, SplitBehavior behavior, bool invert, const JsonField& field);

  // Cuts every piece on its own: a pattern sees nothing beyond the ends of its piece. Empty pieces are dropped.
  std::vector<UnitRange> apply(std::u16string_view text, const std::vector<UnitRange>& pieces) const;

 private:
  SplitPattern(const std::string& icu_pattern, SplitBehavior behavior, bool invert, const JsonField& field);

  std::unique_ptr<icu::RegexPattern> regex_;
  SplitBehavior behavior_;
  bool invert_;
  std::string shown_;  // file, key and pattern for messages
};

}  // namespace fairway::formats
