// Patterns of tokenizer.json are written for Oniguruma (Ruby syntax); this turns them into the same pattern for ICU.
#pragma once

#include <string>
#include <string_view>

namespace fairway::formats {

// The ICU pattern that matches what Oniguruma matches, to be compiled with UREGEX_MULTILINE | UREGEX_UNIX_LINES.
// What differs and is translated: \s \d \w \h \b (and their negations, also inside classes), (?m), captures, literal
// braces and every punctuation character. `pattern` must be valid UTF-8. Throws std::invalid_argument naming the
// construct and its position if it is malformed or one whose meaning would differ.
std::string to_icu_pattern(std::string_view pattern);

// An ICU pattern that matches exactly `text` (valid UTF-8).
std::string literal_icu_pattern(std::string_view text);

}  // namespace fairway::formats
