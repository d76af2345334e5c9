// Unicode normalization through ICU.
#include "formats/text_normalizer.h"

#include <fmt/format.h>
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>
#include <unicode/uniset.h>

#include <cstdint>

#include "formats/json.h"

namespace fairway::formats {
namespace {

const icu::Normalizer2* normalizer_of(NormalForm form, UErrorCode& status) {
  switch (form) {
    case NormalForm::kNfc:
      return icu::Normalizer2::getNFCInstance(status);
    case NormalForm::kNfd:
      return icu::Normalizer2::getNFDInstance(status);
    case NormalForm::kNfkc:
      return icu::Normalizer2::getNFKCInstance(status);
    case NormalForm::kNfkd:
      return icu::Normalizer2::getNFKDInstance(status);
  }
  return nullptr;  // not reached: the cases above are all there are
}

// Hugging Face tokenizers 0.23.3 normalizes by the tables of Unicode 9.0: of the characters that Unicode 10 to 14
// added, it reorders, decomposes and composes none, and older ones behave as today (found by trying every character of
// Unicode 14). Ids must be the same as there, so what is newer passes unchanged here, too.
const icu::UnicodeSet& known_characters(UErrorCode& status) {
  static const icu::UnicodeSet set = [] {
    UErrorCode made = U_ZERO_ERROR;
    icu::UnicodeSet characters(u"[:Age=9.0:]", made);
    if (U_FAILURE(made)) characters.setToBogus();
    characters.freeze();
    return characters;
  }();
  if (set.isBogus() && U_SUCCESS(status)) status = U_MISSING_RESOURCE_ERROR;
  return set;
}

std::string normalize(NormalForm form, std::string_view text) {
  if (text.size() > std::size_t{INT32_MAX} / 8) {  // ICU counts in 32 bits, and compatibility forms grow
    throw Error(ErrorKind::kResource, fmt::format("text of {} bytes is too long to normalize at once", text.size()));
  }
  UErrorCode status = U_ZERO_ERROR;
  std::string out;
  icu::StringByteSink<std::string> sink(&out, static_cast<int32_t>(text.size()));
  const icu::StringPiece piece(text.data(), static_cast<int32_t>(text.size()));
  const icu::Normalizer2* const normalizer = normalizer_of(form, status);
  const icu::UnicodeSet& known = known_characters(status);
  if (U_SUCCESS(status)) {
    icu::FilteredNormalizer2(*normalizer, known).normalizeUTF8(0, piece, sink, nullptr, status);
  }
  if (U_FAILURE(status)) {
    throw Error(ErrorKind::kResource, fmt::format("Unicode normalization failed: {}", u_errorName(status)));
  }
  return out;
}

}  // namespace

void TextNormalizer::add(const JsonField& field) {
  const std::string& type = field.type();
  if (type == "Sequence") {
    const JsonField steps = field.at("normalizers");
    for (std::size_t i = 0; i < steps.array_size(); ++i) add(steps.element(i));
  } else if (type == "NFC") {
    forms_.push_back(NormalForm::kNfc);
  } else if (type == "NFD") {
    forms_.push_back(NormalForm::kNfd);
  } else if (type == "NFKC") {
    forms_.push_back(NormalForm::kNfkc);
  } else if (type == "NFKD") {
    forms_.push_back(NormalForm::kNfkd);
  } else {
    field.unsupported(fmt::format("normalizer \"{}\" is not implemented; expected NFC, NFD, NFKC, NFKD or Sequence",
                                  printable(type)));
  }
}

TextNormalizer TextNormalizer::parse(const JsonField& field) {
  TextNormalizer normalizer;
  normalizer.add(field);
  return normalizer;
}

std::string TextNormalizer::apply(std::string_view text) const {
  std::string out(text);
  for (const NormalForm form : forms_) out = normalize(form, out);
  return out;
}

}  // namespace fairway::formats
