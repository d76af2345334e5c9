// Texts go through the tokenizer, ids through a check of each.
#include "formats/token_file.h"

#include <fmt/format.h>

#include "fairway/error.h"
#include "formats/json.h"

namespace fairway::formats {
namespace {

std::vector<int> parse_ids(std::string_view contents, const std::string& name, int vocab_size) {
  const nlohmann::json document = parse_json(contents, name);
  const auto bad = [&](const std::string& what) {
    return Error(ErrorKind::kBadInput, fmt::format("{}: {}", name, what));
  };
  if (document.is_object() && !document.contains("ids")) throw bad("the object has no key \"ids\"");
  const nlohmann::json& array = document.is_object() ? document["ids"] : document;
  if (!array.is_array()) throw bad("expected an array of token ids, or an object with such an array as \"ids\"");
  std::vector<int> ids;
  ids.reserve(array.size());
  for (const nlohmann::json& item : array) {
    const bool inside = item.is_number_integer() && item >= 0 && item < vocab_size;
    if (!inside) {
      throw bad(fmt::format("ids[{}] is {}, expected an integer from 0 to {}", ids.size(),
                            printable(item.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)),
                            vocab_size - 1));
    }
    ids.push_back(item.get<int>());
  }
  return ids;
}

std::vector<int> encode_text(std::string_view contents, const std::string& name, const Tokenizer& tokenizer) {
  if (contents.empty()) return {};  // no document, not one that begins and has no text
  try {
    return encode_documents(tokenizer, contents);
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kBadInput) throw;
    throw Error(ErrorKind::kBadInput, fmt::format("{}: {}", name, e.what()));
  }
}

}  // namespace

std::vector<int> parse_token_file(TokenFile kind, std::string_view contents, const std::string& name,
                                  const Tokenizer& tokenizer, int vocab_size) {
  return kind == TokenFile::kIds ? parse_ids(contents, name, vocab_size) : encode_text(contents, name, tokenizer);
}

}  // namespace fairway::formats
