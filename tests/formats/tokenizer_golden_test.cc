// Every golden case of tools/make_tokenizer_goldens.py: ids, decoded text, words and normal forms as Hugging Face has
// them.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "formats/byte_symbols.h"
#include "formats/json.h"
#include "formats/json_field.h"
#include "formats/mapped_file.h"
#include "formats/pre_tokenizer.h"
#include "formats/text_normalizer.h"
#include "formats/tokenizer.h"

namespace fairway::formats {
namespace {

const std::filesystem::path kData = std::filesystem::path(FAIRWAY_SOURCE_DIR) / "tests" / "formats" / "data";

std::string read(const std::filesystem::path& path) {
  return read_text_file(path, std::size_t{16} << 20);
}

nlohmann::json read_json(const std::string& file) {
  return parse_json(read(kData / file), file);
}

std::vector<int> expected_ids(const nlohmann::json& golden) {
  if (golden.contains("ids")) return golden.at("ids").get<std::vector<int>>();
  std::vector<int> ids;
  for (const auto& run : golden.at("runs")) ids.insert(ids.end(), run[1].get<std::size_t>(), run[0].get<int>());
  return ids;
}

std::string stream(const Tokenizer& tokenizer, const std::vector<int>& ids, bool keep_special) {
  StreamDecoder decoder(tokenizer, keep_special);
  std::string text;
  for (const int id : ids) text += decoder.push(id);
  return text + decoder.flush();
}

class TokenizerGolden : public testing::TestWithParam<std::string> {
 protected:
  Tokenizer load() const {
    if (GetParam() == "books")
      return Tokenizer::load(std::filesystem::path(FAIRWAY_SOURCE_DIR) / "models" / "books-moe");
    const std::string file = "tokenizer_" + GetParam() + ".json";
    return Tokenizer::parse(read(kData / file), "", file);
  }
  nlohmann::json cases() const { return read_json("tokenizer_" + GetParam() + "_cases.json"); }
};

TEST_P(TokenizerGolden, EncodesAndDecodesEveryText) {
  const Tokenizer tokenizer = load();
  const nlohmann::json texts = read_json("tokenizer_texts.json").at("texts");
  const nlohmann::json goldens = cases().at("encode");
  ASSERT_EQ(goldens.size(), texts.size());
  ASSERT_GT(texts.size(), 300u);
  for (const auto& golden : goldens) {
    const auto index = golden.at("text").get<std::size_t>();
    const auto text = texts[index].get<std::string>();
    SCOPED_TRACE(testing::Message() << "text " << index << " \"" << printable(text) << "\"");
    const std::vector<int> ids = tokenizer.encode(text);
    EXPECT_EQ(ids, expected_ids(golden));
    EXPECT_EQ(tokenizer.encode(text), ids) << "the second time, from the cache";
    const std::string decoded = golden.value("decoded", text);
    EXPECT_EQ(tokenizer.decode(ids), decoded);
    EXPECT_EQ(stream(tokenizer, ids, false), decoded);
  }
}

TEST_P(TokenizerGolden, DecodesEveryIdList) {
  const Tokenizer tokenizer = load();
  const nlohmann::json goldens = cases().at("decode");
  ASSERT_GE(goldens.size(), 60u);
  for (const auto& golden : goldens) {
    const auto ids = golden.at("ids").get<std::vector<int>>();
    SCOPED_TRACE(golden.at("ids").dump());
    EXPECT_EQ(tokenizer.decode(ids), golden.at("text").get<std::string>());
    EXPECT_EQ(tokenizer.decode(ids, true), golden.at("all").get<std::string>());
    EXPECT_EQ(stream(tokenizer, ids, false), golden.at("text").get<std::string>());
    EXPECT_EQ(stream(tokenizer, ids, true), golden.at("all").get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerGolden, testing::Values("books", "qwen", "glm", "deepseek", "digits"),
                         [](const auto& test) { return test.param; });

TEST(PreTokenizerGolden, EveryKindAndBehavior) {
  const nlohmann::json goldens = read_json("pre_tokenizer_cases.json");
  const nlohmann::json& texts = goldens.at("texts");
  ASSERT_GE(goldens.at("cases").size(), 70u);
  for (const auto& golden : goldens.at("cases")) {
    const JsonField field(golden.at("pre_tokenizer"), "golden");
    SCOPED_TRACE(golden.at("pre_tokenizer").dump());
    const PreTokenizer pre_tokenizer = PreTokenizer::parse(field);
    for (std::size_t i = 0; i < texts.size(); ++i) {
      Words words;
      pre_tokenizer.split(texts[i].get<std::string>(), words);
      std::vector<std::string> symbols;
      std::size_t begin = 0;
      for (const std::size_t end : words.ends) {
        symbols.push_back(bytes_to_symbols(std::string_view(words.bytes).substr(begin, end - begin)));
        begin = end;
      }
      EXPECT_EQ(symbols, golden.at("words")[i].get<std::vector<std::string>>()) << "text " << texts[i].dump();
    }
  }
}

TEST(NormalizerGolden, EveryForm) {
  const nlohmann::json goldens = read_json("normalizer_cases.json").at("cases");
  ASSERT_GE(goldens.size(), 100u);
  for (const auto& golden : goldens) {
    const TextNormalizer normalizer = TextNormalizer::parse(JsonField(golden.at("normalizer"), "golden"));
    EXPECT_EQ(normalizer.apply(golden.at("text").get<std::string>()), golden.at("result").get<std::string>())
        << golden.dump();
  }
}

}  // namespace
}  // namespace fairway::formats
