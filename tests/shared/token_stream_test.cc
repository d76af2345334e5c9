// The token stream of the perplexity text has the count and hash that the reference library gives.
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <vector>

#include "formats/json.h"
#include "formats/mapped_file.h"
#include "formats/tokenizer.h"

namespace fairway::formats {
namespace {

const std::filesystem::path kShared = FAIRWAY_SHARED_DIR;

// FNV-1a, 64 bits, over the ids as little-endian int32.
std::uint64_t hash_of(const std::vector<int>& ids) {
  std::uint64_t value = 0xCBF29CE484222325;
  for (const int id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      value = (value ^ ((static_cast<std::uint32_t>(id) >> shift) & 0xFF)) * 0x100000001B3;
    }
  }
  return value;
}

// Expected values: tools/make_tokenizer_goldens.py --stream books-val.txt, with Hugging Face tokenizers 0.23.3.
TEST(TokenStream, BooksValidationText) {
  const Tokenizer tokenizer = Tokenizer::load(std::filesystem::path(FAIRWAY_SOURCE_DIR) / "models" / "books-moe");
  const std::vector<int> ids =
      encode_documents(tokenizer, read_text_file(kShared / "data" / "books-val.txt", std::size_t{1} << 30));
  EXPECT_EQ(ids.size(), 1876388u);
  EXPECT_EQ(hash_of(ids), 0xce2a67843e75209cu);
}

TEST(TokenStream, GoldenWindowIsItsStart) {
  const Tokenizer tokenizer = Tokenizer::load(kShared / "models" / "books-moe-47m");
  const std::vector<int> ids =
      encode_documents(tokenizer, read_text_file(kShared / "data" / "books-val.txt", std::size_t{1} << 30));
  const auto file = kShared / "models" / "books-moe-47m" / "golden_window.json";
  const auto golden =
      parse_json(read_text_file(file, std::size_t{1} << 24), file.string()).at("ids").get<std::vector<int>>();
  ASSERT_EQ(golden.size(), 1025u);
  ASSERT_GE(ids.size(), golden.size());
  EXPECT_EQ(std::vector<int>(ids.begin(), ids.begin() + 1025), golden);
}

TEST(TokenStream, GoldenPromptsHaveTheirIds) {
  const Tokenizer tokenizer = Tokenizer::load(kShared / "models" / "books-moe-47m");
  const auto file = kShared / "models" / "books-moe-47m" / "golden.json";
  const auto golden = parse_json(read_text_file(file, std::size_t{1} << 28), file.string());
  const auto& prompts = golden.is_array() ? golden : golden.at("prompts");
  ASSERT_EQ(prompts.size(), 4u);
  for (const auto& prompt : prompts) {
    std::vector<int> ids = {tokenizer.bos_id()};
    const std::vector<int> rest = tokenizer.encode(prompt.at("prompt").get<std::string>());
    ids.insert(ids.end(), rest.begin(), rest.end());
    EXPECT_EQ(ids, prompt.at("ids").get<std::vector<int>>());
  }
}

}  // namespace
}  // namespace fairway::formats
