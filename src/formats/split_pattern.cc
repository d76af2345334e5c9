// Matching through ICU, and the five ways of dividing text at matches.
#include "formats/split_pattern.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "formats/json.h"
#include "formats/regex_syntax.h"

namespace fairway::formats {
namespace {

constexpr std::size_t kMaxPatternBytes = 1 << 16;  // the longest published pattern has about 500
constexpr std::int32_t kStackBytes = 32 << 20;     // backtracking state of one match
// ICU counts time in units of 10,000 backtracking steps. Real patterns take a few steps per UTF-16 unit; this allows
// 100 for each and a million on top, which ends exponential patterns within a fraction of a second on short texts.
constexpr std::int32_t kBaseTime = 100;
constexpr std::int32_t kUnitsPerTime = 100;

// A stretch of the piece that is a match or lies between two.
struct Stretch {
  UnitRange range;
  bool match;
};

void merge_with_previous(std::vector<Stretch>& stretches) {
  std::vector<Stretch> merged;
  bool after_match = false;
  for (const Stretch& stretch : stretches) {
    if (stretch.match && !after_match && !merged.empty()) {
      merged.back().range.end = stretch.range.end;
    } else {
      merged.push_back(stretch);
    }
    after_match = stretch.match;
  }
  stretches = std::move(merged);
}

void merge_with_next(std::vector<Stretch>& stretches) {
  std::vector<Stretch> merged;  // last first
  bool before_match = false;
  for (auto stretch = stretches.rbegin(); stretch != stretches.rend(); ++stretch) {
    if (stretch->match && !before_match && !merged.empty()) {
      merged.back().range.begin = stretch->range.begin;
    } else {
      merged.push_back(*stretch);
    }
    before_match = stretch->match;
  }
  std::reverse(merged.begin(), merged.end());
  stretches = std::move(merged);
}

void merge_contiguous(std::vector<Stretch>& stretches) {
  std::vector<Stretch> merged;
  bool previous = false;
  for (const Stretch& stretch : stretches) {
    if (stretch.match == previous && !merged.empty()) {
      merged.back().range.end = stretch.range.end;
    } else {
      merged.push_back(stretch);
    }
    previous = stretch.match;
  }
  stretches = std::move(merged);
}

void divide(std::vector<Stretch>& stretches, SplitBehavior behavior) {
  switch (behavior) {
    case SplitBehavior::kIsolated:
      return;
    case SplitBehavior::kRemoved:
      std::erase_if(stretches, [](const Stretch& s) { return s.match; });
      return;
    case SplitBehavior::kMergedWithPrevious:
      return merge_with_previous(stretches);
    case SplitBehavior::kMergedWithNext:
      return merge_with_next(stretches);
    case SplitBehavior::kContiguous:
      return merge_contiguous(stretches);
  }
}

// All matches of the piece and what lies between. An empty match counts only where the previous match did not end.
void find_stretches(icu::RegexMatcher& matcher, UnitRange piece, UErrorCode& status, std::vector<Stretch>& stretches) {
  stretches.clear();
  matcher.region(piece.begin, piece.end, status);
  std::int32_t done = piece.begin;
  std::int32_t last_match_end = -1;
  while (matcher.find(status) && U_SUCCESS(status)) {
    const UnitRange found{matcher.start(status), matcher.end(status)};
    if (found.begin == found.end && found.end == last_match_end) continue;
    if (done != found.begin) stretches.push_back({{done, found.begin}, false});
    stretches.push_back({found, true});
    done = last_match_end = found.end;
  }
  if (done != piece.end) stretches.push_back({{done, piece.end}, false});
}

}  // namespace

SplitPattern::SplitPattern(const std::string& icu_pattern, SplitBehavior behavior, bool invert, const JsonField& field)
    : behavior_(behavior), invert_(invert) {
  UErrorCode status = U_ZERO_ERROR;
  UParseError place{};
  const icu::UnicodeString pattern = icu::UnicodeString::fromUTF8(icu_pattern);
  regex_.reset(icu::RegexPattern::compile(pattern, UREGEX_MULTILINE | UREGEX_UNIX_LINES, place, status));
  if (U_FAILURE(status)) field.bad(fmt::format("regular expression is malformed: {}", u_errorName(status)));
}

SplitPattern SplitPattern::from_regex(const std::string& pattern, SplitBehavior behavior, bool invert,
                                      const JsonField& field) {
  if (pattern.size() > kMaxPatternBytes) {
    field.bad(fmt::format("regular expression has {} bytes, more than {}", pattern.size(), kMaxPatternBytes));
  }
  std::string translated;
  try {
    translated = to_icu_pattern(pattern);
  } catch (const std::invalid_argument& problem) {
    field.unsupported(fmt::format("regular expression \"{}\": {}", printable(pattern), problem.what()));
  }
  SplitPattern split(translated, behavior, invert, field);
  split.shown_ = fmt::format("{}: regular expression \"{}\"", field.file(), printable(pattern));
  return split;
}

SplitPattern SplitPattern::from_text(const std::string& text, SplitBehavior behavior, bool invert,
                                     const JsonField& field) {
  if (text.size() > kMaxPatternBytes) {
    field.bad(fmt::format("pattern has {} bytes, more than {}", text.size(), kMaxPatternBytes));
  }
  SplitPattern split(literal_icu_pattern(text), behavior, invert, field);
  split.shown_ = fmt::format("{}: pattern \"{}\"", field.file(), printable(text));
  return split;
}

std::vector<UnitRange> SplitPattern::apply(std::u16string_view text, const std::vector<UnitRange>& pieces) const {
  UErrorCode status = U_ZERO_ERROR;
  const auto length = static_cast<std::int32_t>(text.size());  // the caller bounds texts
  const icu::UnicodeString input(false, text.data(), length);  // refers to `text` without a copy
  const std::unique_ptr<icu::RegexMatcher> matcher(regex_->matcher(input, status));
  if (U_SUCCESS(status)) {
    matcher->setTimeLimit(kBaseTime + length / kUnitsPerTime, status);
    matcher->setStackLimit(kStackBytes, status);
  }
  std::vector<UnitRange> result;
  std::vector<Stretch> stretches;
  for (const UnitRange piece : pieces) {
    if (U_SUCCESS(status)) find_stretches(*matcher, piece, status, stretches);
    if (U_FAILURE(status)) {
      throw Error(ErrorKind::kResource, fmt::format("{} cannot be matched on a text of {} UTF-16 units: {}", shown_,
                                                    length, u_errorName(status)));
    }
    if (invert_) {
      for (Stretch& stretch : stretches) stretch.match = !stretch.match;
    }
    divide(stretches, behavior_);
    for (const Stretch& stretch : stretches) {
      if (stretch.range.begin != stretch.range.end) result.push_back(stretch.range);
    }
  }
  return result;
}

}  // namespace fairway::formats
