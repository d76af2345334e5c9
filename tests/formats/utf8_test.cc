// UTF-8: every code point there and back, and ill-formed bytes repaired as the Unicode standard recommends.
#include "formats/utf8.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "formats/byte_symbols.h"

namespace fairway::formats {
namespace {

TEST(Utf8, EveryCharacterSurvivesBothConversions) {
  std::string all;
  std::size_t count = 0;
  for (char32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    const std::size_t begin = all.size();
    append_utf8(all, code);
    ++count;
    const Utf8Step step = read_utf8(all, begin);
    ASSERT_EQ(step.kind, Utf8Kind::kValid) << static_cast<std::uint32_t>(code);
    ASSERT_EQ(step.code, code);
    ASSERT_EQ(step.length, all.size() - begin);
  }
  EXPECT_EQ(find_invalid_utf8(all), std::string_view::npos);
  EXPECT_EQ(count_code_points(all), count);
  EXPECT_EQ(utf8_lossy(all), all);
  const std::u16string units = utf8_to_utf16(all);
  EXPECT_EQ(units.size(), count + 0x100000) << "two units for each supplementary character";
  std::string back;
  append_utf16_as_utf8(back, units);
  EXPECT_EQ(back, all);
}

// The examples of the Unicode standard, section 3.9 (tables 3-8 to 3-11).
TEST(Utf8, MaximalSubpartsBecomeOneReplacementEach) {
  const std::string r = "\uFFFD";
  const std::vector<std::pair<std::string, std::string>> cases = {{"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
                                                                   "A",
                                                                   r + r + r + r + r + r + r + r + "A"},
                                                                  {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF"
                                                                   "A",
                                                                   r + r + r + r + r + r + r + r + "A"},
                                                                  {"\xF4\x91\x92\x93\xFF"
                                                                   "A\x80\xBF"
                                                                   "B",
                                                                   r + r + r + r + r + "A" + r + r + "B"},
                                                                  {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
                                                                   "A",
                                                                   r + r + r + r + "A"},
                                                                  {"\xE4\xBD", r},
                                                                  {"\xF0\x9F\x98", r},
                                                                  {"a\xC3", "a" + r},
                                                                  {"", ""}};
  for (const auto& [bytes, text] : cases) EXPECT_EQ(utf8_lossy(bytes), text);
}

TEST(Utf8, TellsIncompleteFromInvalid) {
  EXPECT_EQ(read_utf8("\xE4\xBD", 0).kind, Utf8Kind::kIncomplete);
  EXPECT_EQ(read_utf8("\xE4\xBD", 0).length, 2u);
  EXPECT_EQ(read_utf8("\xE4", 0).kind, Utf8Kind::kIncomplete);
  EXPECT_EQ(read_utf8("\xE4"
                      "a",
                      0)
                .kind,
            Utf8Kind::kInvalid);
  EXPECT_EQ(read_utf8("\xE0\x80", 0).kind, Utf8Kind::kInvalid);
  EXPECT_EQ(read_utf8("\xE0\x80", 0).length, 1u);
  EXPECT_EQ(read_utf8("\xC1", 0).kind, Utf8Kind::kInvalid);
  EXPECT_EQ(read_utf8("\xF5", 0).kind, Utf8Kind::kInvalid);
}

TEST(ByteSymbols, AreABijection) {
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) {
    bytes += static_cast<char>(byte);
    EXPECT_EQ(symbol_byte(byte_symbol(static_cast<std::uint8_t>(byte))), byte);
  }
  EXPECT_EQ(symbols_to_bytes(bytes_to_symbols(bytes)), bytes);
  EXPECT_EQ(bytes_to_symbols(" \n\xAD\x7F"), "ĠĊŃġ");
  EXPECT_EQ(symbols_to_bytes("a b"), std::nullopt) << "the space itself is not a symbol";
  EXPECT_EQ(symbol_byte(0x144), -1);
  EXPECT_EQ(symbol_byte(0x10FFFF), -1);
}

}  // namespace
}  // namespace fairway::formats
