// Any text as a sensitivity file: either an Error, or a sensitivity whose own text reads back.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "fairway/error.h"
#include "quantize/sensitivity_file.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using fairway::quantize::parse_sensitivity;
  using fairway::quantize::sensitivity_text;
  try {
    const std::string text =
        sensitivity_text(parse_sensitivity(std::string(reinterpret_cast<const char*>(data), size), "sensitivity.json"));
    require(sensitivity_text(parse_sensitivity(text, "again")) == text);
  } catch (const fairway::Error& error) {
    require(error.kind() == fairway::ErrorKind::kBadInput);
    require(std::string(error.what()).starts_with("sensitivity.json"));
  }
  return 0;
}
