// libFuzzer target: bytes that say how a calibration file is read (text or ids, window, tokens), then the file itself.
// Either an Error that names the file, or ids of the model's vocabulary in whole windows.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "fairway/error.h"
#include "formats/token_file.h"
#include "quantize/calibration_windows.h"

namespace {

using fairway::formats::TokenFile;

constexpr std::size_t kHeader = 3;

void require(bool holds) {
  if (!holds) std::abort();
}

void exercise(const std::uint8_t* header, std::string_view contents) {
  static const auto tokenizer = fairway::formats::Tokenizer::load(FAIRWAY_SOURCE_DIR "/models/books-moe");
  const TokenFile kind = header[0] % 2 == 0 ? TokenFile::kText : TokenFile::kIds;
  const int window = 1 + header[1], tokens = 1 + 4 * header[2], vocab_size = tokenizer.vocab_size();
  const std::vector<int> all = fairway::formats::parse_token_file(kind, contents, "calibration", tokenizer, vocab_size);
  for (const int id : all) require(id >= 0 && id < vocab_size);
  const std::vector<int> chosen = fairway::quantize::calibration_windows(all, window, tokens, "calibration");
  require(!chosen.empty());
  if (chosen.size() == all.size()) return require(chosen == all);
  // Otherwise whole windows, not more than were asked for, each as it stands in the file.
  require(chosen.size() % static_cast<std::size_t>(window) == 0);
  require(chosen.size() <= static_cast<std::size_t>(std::max(tokens, window)));
  for (std::size_t i = 0; i < chosen.size(); i += static_cast<std::size_t>(window)) {
    const auto begin = chosen.begin() + static_cast<std::ptrdiff_t>(i);
    require(std::search(all.begin(), all.end(), begin, begin + window) != all.end());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < kHeader) return 0;
  try {
    exercise(data, std::string_view(reinterpret_cast<const char*>(data) + kHeader, size - kHeader));
  } catch (const fairway::Error& error) {
    require(error.kind() == fairway::ErrorKind::kBadInput);
    require(std::string_view(error.what()).starts_with("calibration: "));
  }
  return 0;
}
