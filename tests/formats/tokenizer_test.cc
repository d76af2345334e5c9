// What the goldens do not reach: special tokens, bos rules, bytes, streaming, invalid text, documents, threads.
#include "formats/tokenizer.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "fairway/error.h"
#include "formats/json.h"
#include "formats/mapped_file.h"
#include "formats/utf8.h"

namespace fairway::formats {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::filesystem::path kRoot = FAIRWAY_SOURCE_DIR;

Tokenizer qwen(const std::string& config = "") {
  const auto file = kRoot / "tests" / "formats" / "data" / "tokenizer_qwen.json";
  return Tokenizer::parse(read_text_file(file, 1 << 20), config, "tokenizer.json");
}

// Merges a+b, then ab+c, then two line feeds; there are symbols for a, b, c, d, space, line feed and the bytes of é
// only.
Tokenizer tiny(const std::string& config = "", const std::string& model_extra = "",
               const std::string& merges = R"([["a","b"],["ab","c"],["Ċ","Ċ"]])") {
  const std::string json = fmt::format(
      R"({{"version":"1.0","added_tokens":[{{"id":9,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,
      "normalized":false,"special":true}}],"pre_tokenizer":{{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}},
      "decoder":{{"type":"ByteLevel"}},"model":{{"type":"BPE",{}"merges":{},
      "vocab":{{"a":0,"b":1,"c":2,"d":3,"Ġ":4,"Ċ":5,"ab":6,"abc":7,"bc":8,"ĊĊ":10,"bcd":12,"Ã":13,"©":14}}}}}})",
      model_extra, merges);
  return Tokenizer::parse(json, config, "tiny");
}

TEST(Tokenizer, BundledModelHasItsSpecialTokens) {
  const Tokenizer tokenizer = Tokenizer::load(kRoot / "models" / "books-moe");
  EXPECT_EQ(tokenizer.vocab_size(), 8192);
  EXPECT_EQ(tokenizer.bos_id(), 0);
  EXPECT_EQ(tokenizer.id_of("<|endoftext|>"), 0);
  EXPECT_EQ(tokenizer.id_of("[gMASK]"), 4);
  EXPECT_EQ(tokenizer.id_of("no such token"), -1);
  EXPECT_TRUE(tokenizer.is_special(0));
  EXPECT_FALSE(tokenizer.is_special(100));
  EXPECT_EQ(tokenizer.token_bytes(0), "<|endoftext|>");
  EXPECT_EQ(tokenizer.token_bytes(tokenizer.id_of("Ġthe")), " the");
}

TEST(Tokenizer, IdsThatAreNoTokensHaveNoText) {
  const Tokenizer tokenizer = tiny();
  EXPECT_EQ(tokenizer.vocab_size(), 15);
  for (const int id : {-1, 11, 15, 1 << 30}) {
    EXPECT_EQ(tokenizer.token_bytes(id), "") << id;
    EXPECT_FALSE(tokenizer.is_special(id)) << id;
  }
  EXPECT_EQ(tokenizer.decode({0, 11, 1}), "ab");
}

TEST(Tokenizer, BosFollowsTheConfig) {
  EXPECT_EQ(qwen().bos_id(), -1);
  EXPECT_EQ(qwen("{}").bos_id(), -1);
  const int id = qwen().id_of("<|im_start|>");
  ASSERT_GE(id, 0);
  EXPECT_EQ(qwen(R"({"bos_token":"<|im_start|>"})").bos_id(), id);
  EXPECT_EQ(qwen(R"({"bos_token":{"content":"<|im_start|>","lstrip":false}})").bos_id(), id);
  EXPECT_EQ(qwen(R"({"bos_token":"<|im_start|>","add_bos_token":true})").bos_id(), id);
  EXPECT_EQ(qwen(R"({"bos_token":"<|im_start|>","add_bos_token":null})").bos_id(), id);
  EXPECT_EQ(qwen(R"({"bos_token":"<|im_start|>","add_bos_token":false})").bos_id(), -1);
  EXPECT_EQ(qwen(R"({"bos_token":null,"add_bos_token":false})").bos_id(), -1);
  EXPECT_EQ(qwen(R"({"bos_token":"a"})").bos_id(), qwen().id_of("a"));
}

TEST(Tokenizer, MergesByRankAndFromTheLeft) {
  EXPECT_THAT(tiny().encode("abcab"), ElementsAre(7, 6));
  EXPECT_THAT(tiny("", "", R"(["b c","a b","ab c"])").encode("abcab"), ElementsAre(0, 8, 6));
  EXPECT_THAT(tiny("", "", R"(["#version: 0.2","b c","bc d"])").encode("abcd<s>bcd"), ElementsAre(0, 12, 9, 12));
}

TEST(Tokenizer, AWordInTheVocabularyStaysWholeOnlyWithIgnoreMerges) {
  EXPECT_THAT(tiny().encode("bcd"), ElementsAre(1, 2, 3));
  EXPECT_THAT(tiny("", R"("ignore_merges":true,)").encode("bcd"), ElementsAre(12));
  EXPECT_THAT(tiny("", R"("ignore_merges":true,)").encode("bcda"), ElementsAre(1, 2, 3, 0));
}

TEST(Tokenizer, LongWordsMergeAsShortOnesDo) {
  // "abc" repeated: 16 of them are merged by scanning, 17 by the heap.
  for (const int count : {15, 16, 17, 40, 1000}) {
    std::string text;
    for (int i = 0; i < count; ++i) text += "abc";
    EXPECT_EQ(tiny().encode(text), std::vector<int>(static_cast<std::size_t>(count), 7)) << count;
  }
}

TEST(Tokenizer, ByteWithoutTokenIsAnErrorOnlyWhenNeeded) {
  EXPECT_THAT(tiny().encode("a b"), ElementsAre(0, 4, 1));
  try {
    tiny().encode("ae");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
    EXPECT_THAT(error.what(), HasSubstr("tiny: model.vocab: the text has byte 65"));
  }
}

TEST(Tokenizer, InvalidUtf8IsRefusedWithItsPlace) {
  const Tokenizer tokenizer = qwen();
  const std::vector<std::pair<std::string, int>> cases = {
      {"\x80", 0},           {"abc\xFF", 3},          {"\xC3\xA9\xC0\xAF", 2}, {"a\xE4\xBD", 1},
      {"ab\xED\xA0\x80", 2}, {"\xF4\x90\x80\x80", 0}, {"<|im_end|>\xC3", 10},  {"x\xE0\x80\x80", 1},
      {"\xF0\x9F\x98", 0}};
  for (const auto& [text, place] : cases) {
    try {
      tokenizer.encode(text);
      ADD_FAILURE() << "no error for " << printable(text);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
      EXPECT_THAT(error.what(), HasSubstr(fmt::format("byte {}", place)));
    }
    EXPECT_THROW(encode_documents(tokenizer, text), Error);
  }
}

TEST(StreamDecoder, GivesOnlyWholeCharacters) {
  const Tokenizer tokenizer = qwen();
  std::vector<int> bytes;  // of "é😀", one token each
  for (const char* symbol : {"Ã", "©", "ð", "Ł", "ĺ", "Ģ"}) bytes.push_back(tokenizer.id_of(symbol));
  ASSERT_THAT(bytes, testing::Each(testing::Ge(0)));
  StreamDecoder decoder(tokenizer);
  std::vector<std::string> texts;
  for (const int id : bytes) texts.push_back(decoder.push(id));
  EXPECT_THAT(texts, ElementsAre("", "é", "", "", "", "😀"));
  EXPECT_EQ(decoder.flush(), "");
  EXPECT_EQ(decoder.push(bytes[2]), "");
  EXPECT_EQ(decoder.push(tokenizer.id_of("<|im_end|>")), "") << "special tokens are left out";
  EXPECT_EQ(decoder.push(tokenizer.id_of("a")), "\uFFFDa");
  EXPECT_EQ(decoder.push(bytes[0]), "");
  EXPECT_EQ(decoder.flush(), "\uFFFD");
  EXPECT_EQ(decoder.flush(), "");
  StreamDecoder keeping(tokenizer, true);
  EXPECT_EQ(keeping.push(bytes[0]), "");
  EXPECT_EQ(keeping.push(tokenizer.id_of("<|im_end|>")), "\uFFFD<|im_end|>");
}

TEST(EncodeDocuments, EveryDocumentBeginsWithBos) {
  const std::string text("a\n\0b", 4);
  EXPECT_THAT(encode_documents(tiny(R"({"bos_token":"<s>"})"), text), ElementsAre(9, 0, 9, 1));
  EXPECT_THAT(encode_documents(tiny(), text), ElementsAre(0, 1));
  EXPECT_THAT(encode_documents(tiny(R"({"bos_token":"<s>"})"), ""), ElementsAre(9));
  EXPECT_THAT(encode_documents(tiny(R"({"bos_token":"<s>"})"), text + std::string("\n\0", 2)),
              ElementsAre(9, 0, 9, 1, 9));
}

// GPT-2's pattern keeps "\n\n" together, here one token, only where no character follows it: at the end of a piece.
TEST(EncodeDocuments, CutsWhereMoreThan20000CodePointsAreReached) {
  const Tokenizer tokenizer = tiny();
  const auto ids_after = [&](const std::string& head, const std::string& tail) {
    const std::size_t before = tokenizer.encode(head).size();
    const std::vector<int> ids = encode_documents(tokenizer, head + tail);
    return std::vector<int>(ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end());
  };
  const std::string exact(20000, 'd');
  EXPECT_THAT(tokenizer.encode("d\n\nd"), ElementsAre(3, 5, 5, 3));
  EXPECT_THAT(tokenizer.encode("d\n\n"), ElementsAre(3, 10));
  EXPECT_THAT(ids_after(exact, "\n\na"), ElementsAre(5, 5, 0, 10)) << "20,000 are not more; 20,001 are";
  EXPECT_THAT(ids_after(exact, "d\n\na"), ElementsAre(3, 10, 0));
  EXPECT_THAT(ids_after(exact, "d\n\na\n\nb"), ElementsAre(3, 10, 0, 5, 5, 1));
  EXPECT_THAT(ids_after(exact.substr(1), "\n\na"), ElementsAre(5, 5, 0)) << "the last piece ends as the text does";
  EXPECT_THAT(ids_after(exact, "\n\n"), ElementsAre(10)) << "two line feeds do not count";
  EXPECT_THAT(ids_after(exact, "d\n\n" + exact + "\n\na\n\nb"), testing::SizeIs(2 + 20000 + 2 + 2 + 1));
}

TEST(EncodeDocuments, CountsCodePointsAndNotBytes) {
  std::string wide;
  for (int i = 0; i < 20000; ++i) wide += "é";
  const std::vector<int> ids = encode_documents(tiny(), wide + "\n\na");
  EXPECT_THAT(std::vector<int>(ids.end() - 4, ids.end()), ElementsAre(5, 5, 0, 10));
  const std::vector<int> more = encode_documents(tiny(), wide + "é\n\na");
  EXPECT_THAT(std::vector<int>(more.end() - 3, more.end()), ElementsAre(14, 10, 0));
}

TEST(Tokenizer, ManyThreadsMayEncode) {
  const Tokenizer tokenizer = qwen();
  const std::string text = "The harbour was quiet when the first boats came in. 今天天气很好 1234";
  const std::vector<int> expected = tokenizer.encode(text);
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) wrong[t] += tokenizer.encode(text) == expected ? 0 : 1;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, testing::Each(0));
}

}  // namespace
}  // namespace fairway::formats
