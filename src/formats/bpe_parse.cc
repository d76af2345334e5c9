// Reads and checks the model section of tokenizer.json.
#include <fmt/format.h>

#include <unordered_set>
#include <utility>

#include "formats/bpe.h"
#include "formats/byte_symbols.h"
#include "formats/json.h"
#include "formats/token_limits.h"
#include "formats/utf8.h"

namespace fairway::formats {
namespace {

// Options that change the ids in ways byte-level tokenizers do not use: only their neutral values are accepted.
void refuse_options(const JsonField& field) {
  for (const char* key : {"unk_token", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto option = field.find(key);
    if (option && !option->string().empty()) {
      option->unsupported(fmt::format("\"{}\" is not implemented; expected null", printable(option->string(), 60)));
    }
  }
  if (field.flag("byte_fallback", false)) field.unsupported("byte_fallback true is not implemented");
  const auto dropout = field.find("dropout");
  if (!dropout) return;
  if (!dropout->json().is_number()) dropout->bad("expected null or a number");
  if (dropout->json().get<double>() != 0) dropout->unsupported("dropout is not implemented; expected null or 0");
}

// The two sides of a merge, from ["a", "b"] or "a b". Nothing if it is neither.
std::optional<std::pair<std::string_view, std::string_view>> merge_sides(const nlohmann::json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return std::pair<std::string_view, std::string_view>(merge[0].get_ref<const std::string&>(),
                                                         merge[1].get_ref<const std::string&>());
  }
  if (!merge.is_string()) return std::nullopt;
  const std::string_view text = merge.get_ref<const std::string&>();
  const std::size_t space = text.find(' ');
  if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) return std::nullopt;
  return std::pair(text.substr(0, space), text.substr(space + 1));
}

bool is_version_line(const nlohmann::json& merge) {
  return merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version");
}

}  // namespace

BpeModel BpeModel::parse(const JsonField& field) {
  // Files older than the type tag have none; everything else about them is the same.
  if (const auto type = field.find("type"); type && type->string() != "BPE") {
    type->unsupported(fmt::format("\"{}\" is not implemented; expected BPE", printable(type->string(), 60)));
  }
  refuse_options(field);
  BpeModel model;
  model.file_ = field.file();
  model.ignore_merges_ = field.flag("ignore_merges", false);
  model.parse_vocabulary(field.at("vocab"));
  model.parse_merges(field.at("merges"));
  return model;
}

void BpeModel::parse_vocabulary(const JsonField& field) {
  const auto& entries = field.object();
  if (entries.empty()) field.bad("the vocabulary is empty");
  std::unordered_set<int> ids;
  for (const auto& [text, value] : entries) {
    const bool plain = value.is_number_unsigned() && value.get<std::uint64_t>() <= std::uint64_t{kMaxTokenId};
    const auto id = static_cast<int>(plain ? value.get<std::int64_t>() : field.at(text).integer(0, kMaxTokenId));
    if (!ids.insert(id).second) field.bad(fmt::format("id {} is given twice, once to \"{}\"", id, printable(text, 60)));
    vocabulary_.emplace(text, id);
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::string symbol;
    append_utf8(symbol, byte_symbol(static_cast<std::uint8_t>(byte)));
    byte_ids_[byte] = id_of(symbol);
  }
}

void BpeModel::parse_merges(const JsonField& field) {
  const std::size_t count = field.array_size();
  merges_ = MergeTable(count);
  std::string merged;
  for (std::size_t i = 0; i < count; ++i) {
    const nlohmann::json& merge = field.json()[i];
    if (is_version_line(merge)) continue;
    const auto sides = merge_sides(merge);
    if (!sides) field.element(i).bad("expected two token texts, [\"a\", \"b\"] or \"a b\"");
    merged.assign(sides->first).append(sides->second);
    const auto id_or_fail = [&](std::string_view text) {
      const int id = id_of(text);
      if (id < 0) field.element(i).bad(fmt::format("token \"{}\" is not in the vocabulary", printable(text, 60)));
      return id;
    };
    const int left = id_or_fail(sides->first);
    const int right = id_or_fail(sides->second);
    merges_.set(left, right, {static_cast<std::uint32_t>(i), id_or_fail(merged)});
  }
}

}  // namespace fairway::formats
