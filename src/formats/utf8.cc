// UTF-8 decoding by the table of well-formed sequences (Unicode 15, table 3-7).
#include "formats/utf8.h"

#include <algorithm>
#include <cstdint>

namespace fairway::formats {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

// What may follow a lead byte: how many bytes, and the range of the first of them (later ones are 80..BF).
struct LeadRule {
  std::uint8_t following;  // 0: not a lead byte of a longer sequence
  std::uint8_t low;
  std::uint8_t high;
};

LeadRule rule_for(std::uint8_t lead) {
  if (lead >= 0xC2 && lead <= 0xDF) return {1, 0x80, 0xBF};
  if (lead == 0xE0) return {2, 0xA0, 0xBF};  // below A0 would be an overlong form
  if (lead == 0xED) return {2, 0x80, 0x9F};  // above 9F would be a surrogate
  if (lead >= 0xE1 && lead <= 0xEF) return {2, 0x80, 0xBF};
  if (lead == 0xF0) return {3, 0x90, 0xBF};  // overlong below
  if (lead >= 0xF1 && lead <= 0xF3) return {3, 0x80, 0xBF};
  if (lead == 0xF4) return {3, 0x80, 0x8F};  // above U+10FFFF beyond
  return {0, 0, 0};
}

}  // namespace

Utf8Step read_utf8(std::string_view text, std::size_t position) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t lead = byte(position);
  if (lead < 0x80) return {Utf8Kind::kValid, 1, lead};
  const LeadRule rule = rule_for(lead);
  if (rule.following == 0) return {Utf8Kind::kInvalid, 1, kReplacement};
  char32_t code = lead & (0x3Fu >> rule.following);
  for (std::size_t i = 1; i <= rule.following; ++i) {
    if (position + i == text.size()) return {Utf8Kind::kIncomplete, i, kReplacement};
    const std::uint8_t next = byte(position + i);
    const std::uint8_t low = i == 1 ? rule.low : 0x80;
    const std::uint8_t high = i == 1 ? rule.high : 0xBF;
    if (next < low || next > high) return {Utf8Kind::kInvalid, i, kReplacement};
    code = (code << 6) | (next & 0x3Fu);
  }
  return {Utf8Kind::kValid, std::size_t{1} + rule.following, code};
}

std::size_t find_invalid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const Utf8Step step = read_utf8(text, i);
    if (step.kind != Utf8Kind::kValid) return i;
    i += step.length;
  }
  return std::string_view::npos;
}

std::string utf8_lossy(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  for (std::size_t i = 0; i < bytes.size();) {
    const Utf8Step step = read_utf8(bytes, i);
    if (step.kind == Utf8Kind::kValid) {
      out.append(bytes.substr(i, step.length));
    } else {
      append_utf8(out, kReplacement);
    }
    i += step.length;
  }
  return out;
}

void append_utf8(std::string& out, char32_t code) {
  const auto tail = [code](int shift) { return static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += {static_cast<char>(0xC0 | (code >> 6)), tail(0)};
  } else if (code < 0x10000) {
    out += {static_cast<char>(0xE0 | (code >> 12)), tail(6), tail(0)};
  } else {
    out += {static_cast<char>(0xF0 | (code >> 18)), tail(12), tail(6), tail(0)};
  }
}

std::size_t count_code_points(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::u16string utf8_to_utf16(std::string_view text) {
  std::u16string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const Utf8Step step = read_utf8(text, i);
    i += step.length;
    if (step.code < 0x10000) {
      out += static_cast<char16_t>(step.code);
    } else {
      out += static_cast<char16_t>(0xD7C0 + (step.code >> 10));
      out += static_cast<char16_t>(0xDC00 | (step.code & 0x3FF));
    }
  }
  return out;
}

void append_utf16_as_utf8(std::string& out, std::u16string_view units) {
  for (std::size_t i = 0; i < units.size(); ++i) {
    char32_t code = units[i];
    if (code >= 0xD800 && code < 0xDC00 && i + 1 < units.size()) {
      code = 0x10000 + ((code - 0xD800) << 10) + (units[++i] - 0xDC00u);
    }
    append_utf8(out, code);
  }
}

}  // namespace fairway::formats
