// JSON limits, duplicate keys and messages, and agreement of the document builder with the library's own.
#include "formats/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/model_files.h"

namespace fairway::formats {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string message_of(const std::string& text, const JsonLimits& limits = {}) {
  const test::Caught caught = test::catch_error([&] { parse_json(text, "dir/file.json", limits); });
  EXPECT_EQ(caught.kind, ErrorKind::kBadInput) << text;
  return caught.message;
}

std::string nested(int depth) {
  return std::string(static_cast<std::size_t>(depth), '[') + std::string(static_cast<std::size_t>(depth), ']');
}

TEST(Json, BuildsTheSameDocumentsAsTheLibrary) {
  const std::string text = test::read_file(std::filesystem::path(FAIRWAY_SOURCE_DIR) / "models/books-moe/config.json");
  EXPECT_EQ(parse_json(text, "config.json"), nlohmann::json::parse(text));
  for (const char* small :
       {"null", " 3 ", "-7", "18446744073709551615", "1e3", "\"a\\u00e9\\n\"", "[]", "{}",
        "[[1,[2]],{\"a\":{\"b\":[true,false,null]},\"c\":[{}]},\"x\"]", "{\"a\":[1,2,{\"k\":{}}],\"b\":\"\",\"\":0}"}) {
    EXPECT_EQ(parse_json(small, "x"), nlohmann::json::parse(small)) << small;
  }
}

TEST(Json, RefusesWhatIsNotOneValue) {
  for (const std::string text : {"", "  ", "{", "[1,]", "{\"a\" 1}", "1 2", "{} x", "// c\n1", "nul", "NaN", "'a'",
                                 "\"\x01\"", "\"\xff\"", "\"\xc0\x80\"", "\"\\ud800\"", "1e999", "[1"}) {
    EXPECT_THAT(message_of(text), AllOf(StartsWith("dir/file.json: "), HasSubstr("invalid JSON"))) << text;
  }
}

TEST(Json, RefusesWhatFollowsANul) {
  EXPECT_THAT(message_of(std::string("1\0garbage", 9)), AllOf(HasSubstr("near byte 2"), HasSubstr("NUL")));
  EXPECT_THAT(message_of(std::string("1\0", 2)), HasSubstr("NUL"));
}

TEST(Json, LimitsDepthExactly) {
  EXPECT_NO_THROW(parse_json(nested(64), "x"));
  EXPECT_THAT(message_of(nested(65)), HasSubstr("deeper than 64"));
  EXPECT_THAT(message_of(std::string(100000, '[')), HasSubstr("deeper than 64"));
  EXPECT_NO_THROW(parse_json("7", "x", {.max_depth = 0}));
  EXPECT_THAT(message_of("[]", {.max_depth = 0}), HasSubstr("deeper than 0"));
  EXPECT_NO_THROW(parse_json("[{},[],[{}]]", "x", {.max_depth = 3}));  // siblings do not add up
}

TEST(Json, LimitsSize) {
  EXPECT_NO_THROW(parse_json("[1,2]", "x", {.max_bytes = 5}));
  EXPECT_THAT(message_of("[1,2]", {.max_bytes = 4}), AllOf(HasSubstr("5 bytes"), HasSubstr("larger than 4")));
}

TEST(Json, RefusesDuplicateKeysByName) {
  EXPECT_THAT(message_of("{\"a\":1,\"b\":2,\"a\":3}"), HasSubstr("duplicate JSON key \"a\""));
  EXPECT_THAT(message_of("{\"x\":{\"deep\":1,\"deep\":2}}"), HasSubstr("\"deep\""));
  EXPECT_EQ(parse_json("{\"x\":{\"k\":1},\"y\":{\"k\":2}}", "f")["y"]["k"], 2);
  EXPECT_EQ(parse_json("{\"a\":1,\"a\":3}", "f", {.reject_duplicate_keys = false})["a"], 3);
}

TEST(Json, PrintableStaysOnOneLineAndIsCut) {
  EXPECT_EQ(printable("model.layers.0"), "model.layers.0");
  EXPECT_EQ(printable("a\nb\"c\\\x7f"), "a\\x0ab\\\"c\\\\\\x7f");
  EXPECT_EQ(printable("\xc3\xa9\xe2\x82\xac"), "\xc3\xa9\xe2\x82\xac");
  EXPECT_EQ(printable("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(printable(std::string(300, 'x')), std::string(200, 'x') + "...");
  EXPECT_EQ(printable("ab\xc3\xa9", 3), "ab...");  // never half a character
}

}  // namespace
}  // namespace fairway::formats
