// Any bytes as a safetensors file: either Error(kBadInput), or tensors that lie inside the bytes without overlap.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "fairway/error.h"
#include "formats/safetensors.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void check(std::span<const std::uint8_t> file) {
  std::size_t covered = 0;
  std::string previous;
  for (const auto& tensor : fairway::formats::parse_safetensors(file, "input")) {
    std::size_t bytes = static_cast<std::size_t>(fairway::formats::tensor_type_bytes(tensor.type));
    for (const std::int64_t extent : tensor.shape) bytes *= static_cast<std::size_t>(extent);
    require(bytes == tensor.bytes.size());
    require(tensor.bytes.data() >= file.data() && tensor.bytes.data() + bytes <= file.data() + file.size());
    require(covered == 0 || previous < tensor.name);
    previous = tensor.name;
    covered += bytes;
  }
  require(covered + 8 <= file.size());  // what is not tensors begins with the 8-byte length
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    check({data, size});
  } catch (const fairway::Error& error) {
    require(error.kind() == fairway::ErrorKind::kBadInput);
  }
  return 0;
}
