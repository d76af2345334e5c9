// libFuzzer target: a tokenizer.json, a NUL, a tokenizer_config.json, a NUL, and a text to encode with it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "fairway/error.h"
#include "formats/tokenizer.h"

namespace {

// Cuts what is before the first NUL off the front of `rest`.
std::string_view take(std::string_view& rest) {
  const std::size_t end = rest.find('\0');
  const std::string_view part = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  return part;
}

void require(bool holds) {
  if (!holds) std::abort();
}

void exercise(std::string_view input) {
  const std::string_view json = take(input);
  const std::string_view config = take(input);
  const auto tokenizer = fairway::formats::Tokenizer::parse(json, config, "fuzz");
  require(tokenizer.bos_id() < tokenizer.vocab_size());
  const std::vector<int> ids = tokenizer.encode(input);
  require(ids == tokenizer.encode(input));
  for (const bool keep_special : {false, true}) {
    fairway::formats::StreamDecoder decoder(tokenizer, keep_special);
    std::string text;
    for (const int id : ids) {
      require(id >= 0 && id < tokenizer.vocab_size());
      text += decoder.push(id);
    }
    require(text + decoder.flush() == tokenizer.decode(ids, keep_special));
  }
  fairway::formats::encode_documents(tokenizer, input);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string input(data, data + size);
  try {
    exercise(input);
  } catch (const fairway::Error& error) {
    require(*error.what() != '\0');
  }
  return 0;
}
