// The normalizer of tokenizer.json: the four Unicode normalization forms, in sequence.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/json_field.h"

namespace fairway::formats {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

class TextNormalizer {
 public:
  // Changes nothing.
  TextNormalizer() = default;
  // Error(kUnsupported) naming a kind other than NFC, NFD, NFKC, NFKD and Sequence of these.
  static TextNormalizer parse(const JsonField& field);

  bool changes_nothing() const { return forms_.empty(); }
  // `text` must be valid UTF-8.
  std::string apply(std::string_view text) const;

 private:
  void add(const JsonField& field);
  std::vector<NormalForm> forms_;
};

}  // namespace fairway::formats
