// ids -> text, whole and as a stream.
#include "fairway/error.h"
#include "formats/tokenizer.h"
#include "formats/utf8.h"

namespace fairway::formats {

std::string Tokenizer::decode(const std::vector<int>& ids, bool keep_special) const {
  std::string bytes;
  for (const int id : ids) {
    if (keep_special || !is_special(id)) bytes += token_bytes(id);
  }
  return utf8_lossy(bytes);
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool keep_special)
    : tokenizer_(tokenizer), keep_special_(keep_special) {}

std::string StreamDecoder::push(int id) {
  if (!keep_special_ && tokenizer_.is_special(id)) return {};
  pending_ += tokenizer_.token_bytes(id);
  std::size_t ready = 0;
  while (ready < pending_.size()) {
    const Utf8Step step = read_utf8(pending_, ready);
    if (step.kind == Utf8Kind::kIncomplete) break;
    ready += step.length;
  }
  std::string text = utf8_lossy(std::string_view(pending_).substr(0, ready));
  pending_.erase(0, ready);
  return text;
}

std::string StreamDecoder::flush() {
  std::string text = utf8_lossy(pending_);
  pending_.clear();
  return text;
}

}  // namespace fairway::formats
