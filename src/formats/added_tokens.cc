// Added tokens: reading, and search through a byte trie.
#include "formats/added_tokens.h"

#include <fmt/format.h>
#include <unicode/uchar.h>

#include <algorithm>
#include <unordered_set>

#include "formats/json.h"
#include "formats/token_limits.h"
#include "formats/utf8.h"

namespace fairway::formats {
namespace {

bool is_space(char32_t code) {
  return u_isUWhiteSpace(static_cast<UChar32>(code)) != 0;
}

// A word character by UTS #18: alphabetic, mark, decimal digit, connector punctuation, join control.
bool is_word(char32_t code) {
  const auto c = static_cast<UChar32>(code);
  constexpr std::uint32_t kMask = U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK;
  return u_hasBinaryProperty(c, UCHAR_ALPHABETIC) != 0 || (U_GET_GC_MASK(c) & kMask) != 0 ||
         u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL) != 0;
}

// Where the character that ends at `end` begins; end > 0.
std::size_t character_before(std::string_view text, std::size_t end) {
  std::size_t begin = end - 1;
  while (begin > 0 && (static_cast<std::uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
  return begin;
}

bool word_before(std::string_view text, std::size_t end) {
  return end > 0 && is_word(read_utf8(text, character_before(text, end)).code);
}

bool word_at(std::string_view text, std::size_t position) {
  return position < text.size() && is_word(read_utf8(text, position).code);
}

std::size_t skip_spaces_back(std::string_view text, std::size_t end, std::size_t limit) {
  while (end > limit) {
    const std::size_t begin = character_before(text, end);
    if (!is_space(read_utf8(text, begin).code)) break;
    end = begin;
  }
  return end;
}

std::size_t skip_spaces(std::string_view text, std::size_t position) {
  while (position < text.size()) {
    const Utf8Step step = read_utf8(text, position);
    if (!is_space(step.code)) break;
    position += step.length;
  }
  return position;
}

AddedToken parse_one(const JsonField& field, const TextNormalizer& normalizer) {
  AddedToken token;
  token.id = static_cast<int>(field.at("id").integer(0, kMaxTokenId));
  token.content = field.at("content").string();
  token.single_word = field.at("single_word").boolean();
  token.lstrip = field.at("lstrip").boolean();
  token.rstrip = field.at("rstrip").boolean();
  token.normalized = field.at("normalized").boolean();
  token.special = field.at("special").boolean();
  token.pattern = token.normalized ? normalizer.apply(token.content) : token.content;
  return token;
}

}  // namespace

std::vector<AddedToken> parse_added_tokens(const JsonField& field, const TextNormalizer& normalizer) {
  std::vector<AddedToken> tokens;
  std::unordered_set<int> ids;
  std::unordered_set<std::string> contents;
  std::unordered_set<std::string> patterns[2];
  for (std::size_t i = 0; i < field.array_size(); ++i) {
    const JsonField item = field.element(i);
    AddedToken token = parse_one(item, normalizer);
    if (token.content.empty()) continue;
    const std::string shown = printable(token.content, 60);
    if (token.pattern.empty()) item.bad(fmt::format("\"{}\" is empty when normalized", shown));
    if (!ids.insert(token.id).second) item.bad(fmt::format("id {} of \"{}\" is given twice", token.id, shown));
    if (!contents.insert(token.content).second) item.bad(fmt::format("\"{}\" is given twice", shown));
    if (!patterns[token.normalized ? 1 : 0].insert(token.pattern).second) {
      item.bad(fmt::format("\"{}\" is the same as another added token when normalized", shown));
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

AddedTokenFinder::AddedTokenFinder(const std::vector<const AddedToken*>& tokens) : nodes_(1), roots_(256, 0) {
  for (const AddedToken* token : tokens) {
    std::uint32_t node = 0;
    for (const char c : token->pattern) {
      const auto byte = static_cast<std::uint8_t>(c);
      std::uint32_t next = child(node, byte);
      if (next == 0) {
        next = static_cast<std::uint32_t>(nodes_.size());
        nodes_[node].children.emplace_back(byte, next);
        nodes_.emplace_back();
        if (node == 0) roots_[byte] = next;
      }
      node = next;
    }
    nodes_[node].token = token;
  }
}

std::uint32_t AddedTokenFinder::child(std::uint32_t node, std::uint8_t byte) const {
  const auto& children = nodes_[node].children;
  const auto found = std::find_if(children.begin(), children.end(), [byte](const auto& c) { return c.first == byte; });
  return found == children.end() ? 0 : found->second;
}

const AddedToken* AddedTokenFinder::longest_at(std::string_view text, std::size_t position) const {
  const AddedToken* longest = nullptr;
  std::uint32_t node = roots_[static_cast<std::uint8_t>(text[position])];
  while (node != 0) {
    if (nodes_[node].token != nullptr) longest = nodes_[node].token;
    if (++position == text.size()) break;
    node = child(node, static_cast<std::uint8_t>(text[position]));
  }
  return longest;
}

void AddedTokenFinder::for_each(std::string_view text, const std::function<void(int, std::string_view)>& found) const {
  std::size_t done = 0;  // what is before this was handed out
  for (std::size_t i = 0; !empty() && i < text.size();) {
    const AddedToken* token = longest_at(text, i);
    if (token == nullptr) {
      ++i;
      continue;
    }
    const std::size_t match = i;
    const std::size_t match_end = i + token->pattern.size();
    i = match_end;  // matches do not overlap, and one that is discarded uses its bytes up all the same
    if (token->single_word && (word_before(text, match) || word_at(text, match_end))) continue;
    // With rstrip, a token may lie in the white space that its predecessor took; it still counts.
    const std::size_t begin = token->lstrip ? std::max(skip_spaces_back(text, match, done), done) : match;
    const std::size_t end = token->rstrip ? skip_spaces(text, match_end) : match_end;
    if (done < begin) found(-1, text.substr(done, begin - done));
    found(token->id, text.substr(match, match_end - match));
    done = end;
  }
  if (done < text.size()) found(-1, text.substr(done));
}

}  // namespace fairway::formats
