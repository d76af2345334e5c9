// UTF-8 as the tokenizer and its decoder see it: validation, lossy repair, and conversion from and to UTF-16.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace fairway::formats {

enum class Utf8Kind {
  kValid,       // `length` bytes are the character `code`
  kInvalid,     // `length` bytes are a maximal subpart of an ill-formed sequence (Unicode 15, section 3.9)
  kIncomplete,  // the text ends inside a sequence that is well formed so far; `length` bytes are left
};

struct Utf8Step {
  Utf8Kind kind;
  std::size_t length;
  char32_t code;  // U+FFFD unless kind is kValid
};

// Reads the character at text[position]; position < text.size().
Utf8Step read_utf8(std::string_view text, std::size_t position);

// Byte offset of the first ill-formed or incomplete sequence, or npos.
std::size_t find_invalid_utf8(std::string_view text);

// Every maximal ill-formed subpart becomes one U+FFFD, also an incomplete one at the end.
std::string utf8_lossy(std::string_view bytes);

void append_utf8(std::string& out, char32_t code);

// Number of code points in valid UTF-8.
std::size_t count_code_points(std::string_view text);

// `text` must be valid UTF-8; `units` must be valid UTF-16.
std::u16string utf8_to_utf16(std::string_view text);
void append_utf16_as_utf8(std::string& out, std::u16string_view units);

}  // namespace fairway::formats
