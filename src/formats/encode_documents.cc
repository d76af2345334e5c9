// The token stream of a text file, cut into pieces in the one way that perplexities are comparable under.
#include <fmt/format.h>

#include <string>

#include "fairway/error.h"
#include "formats/tokenizer.h"
#include "formats/utf8.h"

namespace fairway::formats {
namespace {

constexpr std::string_view kDocumentEnd("\n\0", 2);
constexpr std::string_view kParagraphEnd = "\n\n";
constexpr std::size_t kPieceCodePoints = 20000;

// Calls use(part) for every part of text between separators.
template <typename Use>
void for_each_part(std::string_view text, std::string_view separator, Use use) {
  for (;;) {
    const std::size_t end = text.find(separator);
    use(text.substr(0, end));
    if (end == std::string_view::npos) return;
    text.remove_prefix(end + separator.size());
  }
}

void encode_document(const Tokenizer& tokenizer, std::string_view document, std::vector<int>& ids) {
  const auto encode = [&](std::string_view piece) {
    const std::vector<int> piece_ids = tokenizer.encode(piece);
    ids.insert(ids.end(), piece_ids.begin(), piece_ids.end());
  };
  std::string piece;
  std::size_t code_points = 0;  // of the paragraphs, without what joins them
  for_each_part(document, kParagraphEnd, [&](std::string_view paragraph) {
    piece.append(paragraph).append(kParagraphEnd);
    code_points += count_code_points(paragraph);
    if (code_points <= kPieceCodePoints) return;
    encode(piece);
    piece.clear();
    code_points = 0;
  });
  // A piece that grew too long is complete even if nothing follows it; then there is no last piece.
  if (!piece.empty()) encode(std::string_view(piece).substr(0, piece.size() - kParagraphEnd.size()));
}

}  // namespace

std::vector<int> encode_documents(const Tokenizer& tokenizer, std::string_view text) {
  if (const std::size_t bad = find_invalid_utf8(text); bad != std::string_view::npos) {
    throw Error(ErrorKind::kBadInput, fmt::format("text to tokenize is not valid UTF-8 at byte {}", bad));
  }
  std::vector<int> ids;
  for_each_part(text, kDocumentEnd, [&](std::string_view document) {
    if (tokenizer.bos_id() >= 0) ids.push_back(tokenizer.bos_id());
    encode_document(tokenizer, document, ids);
  });
  return ids;
}

}  // namespace fairway::formats
