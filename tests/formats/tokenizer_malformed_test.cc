// Malformed and unsupported tokenizers: one clear error each, naming the file and the key.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>

#include "fairway/error.h"
#include "formats/tokenizer.h"

namespace fairway::formats {
namespace {

using nlohmann_pointer = nlohmann::json::json_pointer;
using testing::HasSubstr;
using testing::StartsWith;

nlohmann::json valid() {
  return nlohmann::json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 4, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                      "normalized": false, "special": true}],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3}, "merges": [["a", "b"]]}})");
}

// The error of parsing `json`; fails the test if there is none.
void expect_error(const std::string& json, const std::string& config, ErrorKind kind, const std::string& start,
                  const std::string& detail) {
  try {
    Tokenizer::parse(json, config, "dir/tokenizer.json");
    ADD_FAILURE() << "no error, expected: " << start << " ... " << detail;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_THAT(error.what(), StartsWith(start));
    EXPECT_THAT(error.what(), HasSubstr(detail));
  }
}

// One value of the valid file replaced, or removed if `value` is empty.
struct Case {
  const char* pointer;
  const char* value;
  ErrorKind kind;
  const char* key;
  const char* detail;
};

void PrintTo(const Case& item, std::ostream* out) {
  *out << item.pointer << " = " << item.value;
}

class MalformedTokenizer : public testing::TestWithParam<Case> {};

TEST_P(MalformedTokenizer, NamesFileAndKey) {
  const Case& item = GetParam();
  nlohmann::json document = valid();
  const nlohmann_pointer place(item.pointer);
  if (*item.value == '\0') {
    document.at(place.parent_pointer()).erase(place.back());
  } else {
    document[place] = nlohmann::json::parse(item.value);
  }
  expect_error(document.dump(), "", item.kind, std::string("dir/tokenizer.json: ") + item.key, item.detail);
}

constexpr ErrorKind kBad = ErrorKind::kBadInput;
constexpr ErrorKind kNot = ErrorKind::kUnsupported;
#define SPLIT "/pre_tokenizer/pretokenizers/0"
#define SPLIT_KEY "pre_tokenizer.pretokenizers[0]"

INSTANTIATE_TEST_SUITE_P(
    Model, MalformedTokenizer,
    testing::Values(
        Case{"/model", "", kBad, "", "key \"model\" is missing"},
        Case{"/model", "null", kBad, "model: ", "expected an object, found null"},
        Case{"/model", "[]", kBad, "model: ", "expected an object, found array"},
        Case{"/model/type", "\"WordPiece\"", kNot, "model.type: ", "\"WordPiece\""},
        Case{"/model/vocab", "", kBad, "model: ", "\"vocab\" is missing"},
        Case{"/model/vocab", "[[\"a\", 0]]", kBad, "model.vocab: ", "expected an object"},
        Case{"/model/vocab", "{}", kBad, "model.vocab: ", "empty"},
        Case{"/model/vocab/c", "1", kBad, "model.vocab: ", "id 1 is given twice"},
        Case{"/model/vocab/c", "-1", kBad, "model.vocab.c: ", "-1 is not in the range"},
        Case{"/model/vocab/c", "16777216", kBad, "model.vocab.c: ", "0..16777215"},
        Case{"/model/vocab/c", "18446744073709551615", kBad, "model.vocab.c: ", "not in the range"},
        Case{"/model/vocab/c", "2.5", kBad, "model.vocab.c: ", "expected an integer, found 2.5"},
        Case{"/model/vocab/c", "\"2\"", kBad, "model.vocab.c: ", "expected an integer"},
        Case{"/model/merges", "", kBad, "model: ", "\"merges\" is missing"},
        Case{"/model/merges", "{}", kBad, "model.merges: ", "expected an array"},
        Case{"/model/merges/0", "[\"a\", \"x\"]", kBad, "model.merges[0]: ", "\"x\" is not in the vocabulary"},
        Case{"/model/merges/0", "[\"b\", \"c\"]", kBad, "model.merges[0]: ", "\"bc\" is not in the vocabulary"},
        Case{"/model/merges/0", "[\"a\"]", kBad, "model.merges[0]: ", "two token texts"},
        Case{"/model/merges/0", "\"a  b\"", kBad, "model.merges[0]: ", "two token texts"},
        Case{"/model/merges/0", "7", kBad, "model.merges[0]: ", "two token texts"},
        Case{"/model/byte_fallback", "true", kNot, "model: ", "byte_fallback"},
        Case{"/model/byte_fallback", "1", kBad, "model.byte_fallback: ", "true or false"},
        Case{"/model/ignore_merges", "\"yes\"", kBad, "model.ignore_merges: ", "true or false"},
        Case{"/model/dropout", "0.1", kNot, "model.dropout: ", "dropout"},
        Case{"/model/dropout", "\"0\"", kBad, "model.dropout: ", "a number"},
        Case{"/model/unk_token", "\"<unk>\"", kNot, "model.unk_token: ", "<unk>"},
        Case{"/model/continuing_subword_prefix", "\"##\"", kNot, "model.continuing_subword_prefix: ", "##"},
        Case{"/model/end_of_word_suffix", "\"</w>\"", kNot, "model.end_of_word_suffix: ", "</w>"}));

INSTANTIATE_TEST_SUITE_P(
    Components, MalformedTokenizer,
    testing::Values(Case{"/version", "\"2.0\"", kNot, "version: ", "2.0"},
                    Case{"/normalizer/type", "\"Lowercase\"", kNot, "normalizer: ", "\"Lowercase\""},
                    Case{"/normalizer", "{\"type\":\"Sequence\"}", kBad, "normalizer: ", "\"normalizers\" is missing"},
                    Case{"/normalizer", "\"NFC\"", kBad, "normalizer: ", "expected an object"},
                    Case{"/pre_tokenizer", "", kBad, "", "\"pre_tokenizer\" is missing"},
                    Case{"/pre_tokenizer", "null", kNot, "pre_tokenizer: ", "null"},
                    Case{"/pre_tokenizer/type", "\"Metaspace\"", kNot, "pre_tokenizer: ", "\"Metaspace\""},
                    Case{"/pre_tokenizer/pretokenizers/1", "{\"type\":\"Digits\",\"individual_digits\":true}", kNot,
                         "pre_tokenizer: ", "no ByteLevel"},
                    Case{SPLIT, "{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", kNot,
                         "pre_tokenizer.pretokenizers[1]: ", "second ByteLevel"},
                    Case{SPLIT "/behavior", "\"Sideways\"", kBad, SPLIT_KEY ".behavior: ", "\"Sideways\""},
                    Case{SPLIT "/invert", "", kBad, SPLIT_KEY, "\"invert\" is missing"},
                    Case{SPLIT "/pattern", "{\"Glob\":\"*\"}", kBad, SPLIT_KEY ".pattern: ", "\"Regex\" is missing"},
                    Case{SPLIT "/pattern", "{}", kBad, SPLIT_KEY ".pattern: ", "Regex or String"},
                    Case{SPLIT "/pattern/Regex", "\"(a\"", kNot, SPLIT_KEY ".pattern.Regex: ", "not closed"},
                    Case{SPLIT "/pattern/Regex", "\"a(?i)b\"", kNot, SPLIT_KEY ".pattern.Regex: ", "group kind"},
                    Case{SPLIT "/pattern/Regex", "\"(?<x>a)\"", kNot, SPLIT_KEY ".pattern.Regex: ", "group kind"},
                    Case{SPLIT "/pattern/Regex", "\"(a)\\\\1\"", kNot, SPLIT_KEY ".pattern.Regex: ", "escape \\1"},
                    Case{SPLIT "/pattern/Regex", "\"\\\\p{Punct}\"", kNot, SPLIT_KEY ".pattern.Regex: ", "Punct"},
                    Case{SPLIT "/pattern/Regex", "\"\\\\p{NoSuch}\"", kNot, SPLIT_KEY ".pattern.Regex: ", "NoSuch"},
                    Case{SPLIT "/pattern/Regex", "\"[a-z&&[^b]]\"", kNot, SPLIT_KEY ".pattern.Regex: ", "intersection"},
                    Case{SPLIT "/pattern/Regex", "\"[z-a]\"", kNot, SPLIT_KEY ".pattern.Regex: ", "below its start"},
                    Case{SPLIT "/pattern/Regex", "\"[abc\"", kNot, SPLIT_KEY ".pattern.Regex: ", "ends too early"},
                    Case{SPLIT "/pattern/Regex", "\"+a\"", kBad, SPLIT_KEY ".pattern.Regex: ", "malformed"},
                    Case{SPLIT "/pattern/Regex", "5", kBad, SPLIT_KEY ".pattern.Regex: ", "expected a string"},
                    Case{"/decoder", "null", kNot, "decoder: ", "null"},
                    Case{"/decoder/type", "\"WordPiece\"", kNot, "decoder: ", "\"WordPiece\""},
                    Case{"/decoder", "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"}]}", kNot,
                         "decoder.decoders[0]: ", "\"Fuse\""}));

INSTANTIATE_TEST_SUITE_P(
    AddedTokens, MalformedTokenizer,
    testing::Values(
        Case{"/added_tokens", "{}", kBad, "added_tokens: ", "expected an array"},
        Case{"/added_tokens/0", "\"<s>\"", kBad, "added_tokens[0]: ", "expected an object"},
        Case{"/added_tokens/0/id", "", kBad, "added_tokens[0]: ", "\"id\" is missing"},
        Case{"/added_tokens/0/id", "4294967296", kBad, "added_tokens[0].id: ", "4294967296"},
        Case{"/added_tokens/0/id", "2", kBad, "added_tokens: ", "gives that to \"c\""},
        Case{"/added_tokens/0/content", "\"ab\"", kBad, "added_tokens: ", "gives it 3"},
        Case{"/added_tokens/0/special", "0", kBad, "added_tokens[0].special: ", "true or false"},
        Case{
            "/added_tokens/1",
            R"({"id":4,"content":"<t>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true})",
            kBad, "added_tokens[1]: ", "id 4"},
        Case{
            "/added_tokens/1",
            R"({"id":5,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true})",
            kBad, "added_tokens[1]: ", "given twice"}));

#undef SPLIT
#undef SPLIT_KEY

TEST(MalformedTokenizerText, TheValidFileIsValid) {
  const Tokenizer tokenizer = Tokenizer::parse(valid().dump(), "", "t");
  EXPECT_EQ(tokenizer.encode("ab<s>c"), (std::vector<int>{3, 4, 2}));
}

TEST(MalformedTokenizerText, BrokenJson) {
  const std::string text = valid().dump();
  const std::string file = "dir/tokenizer.json: ";
  expect_error("", "", kBad, file, "");
  expect_error("[]", "", kBad, file, "expected an object");
  expect_error(text.substr(0, text.size() / 2), "", kBad, file, "");
  expect_error(text + "x", "", kBad, file, "");
  expect_error(std::string(100000, '['), "", kBad, file, "nested");
  std::string twice = text;
  twice.replace(twice.find("\"b\":1"), 5, "\"a\":1");
  expect_error(twice, "", kBad, file, "duplicate");
  std::string broken = text;
  broken.replace(broken.find("<s>"), 3, "<\xFF>");
  expect_error(broken, "", kBad, file, "");
}

TEST(MalformedTokenizerText, BrokenConfig) {
  const std::string text = valid().dump();
  const std::string file = "dir/tokenizer_config.json: ";
  expect_error(text, "{", kBad, file, "");
  expect_error(text, "3", kBad, file, "expected an object");
  expect_error(text, R"({"bos_token":"<x>"})", kBad, file + "bos_token: ", "\"<x>\" is not a token");
  expect_error(text, R"({"bos_token":{"text":"<s>"}})", kBad, file + "bos_token: ", "\"content\" is missing");
  expect_error(text, R"({"bos_token":7})", kBad, file + "bos_token: ", "expected a string");
  expect_error(text, R"({"add_bos_token":true})", kBad, file, "no bos_token");
  expect_error(text, R"({"add_bos_token":"no"})", kBad, file + "add_bos_token: ", "true or false");
}

TEST(MalformedTokenizerText, AFolderWithoutTokenizer) {
  try {
    Tokenizer::load(std::filesystem::path(FAIRWAY_SOURCE_DIR) / "tests");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kBad);
    EXPECT_THAT(error.what(), HasSubstr("tests/tokenizer.json"));
  }
}

TEST(MalformedTokenizerText, APatternThatExplodesIsAnError) {
  nlohmann::json document = valid();
  document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(?:(?:a|a)*)*b";
  const Tokenizer tokenizer = Tokenizer::parse(document.dump(), "", "dir/tokenizer.json");
  try {
    tokenizer.encode(std::string(60, 'a') + "c");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kResource);
    EXPECT_THAT(error.what(), HasSubstr("cannot be matched"));
  }
}

}  // namespace
}  // namespace fairway::formats
