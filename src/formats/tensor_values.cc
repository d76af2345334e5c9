// Loads at any alignment.
#include "formats/tensor_values.h"

#include <cstdint>
#include <cstring>

#include "codec/float8.h"
#include "codec/half.h"

namespace fairway::formats {
namespace {

template <typename T>
T load(const std::uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

}  // namespace

bool is_fp8(TensorType type) {
  return type == TensorType::kF8E4M3 || type == TensorType::kF8E5M2;
}

bool is_plain_float(TensorType type) {
  return type == TensorType::kF64 || type == TensorType::kF32 || type == TensorType::kF16 || type == TensorType::kBf16;
}

float float_at(const TensorView& tensor, std::size_t i) {
  const std::uint8_t* at = tensor.bytes.data() + i * static_cast<std::size_t>(tensor_type_bytes(tensor.type));
  switch (tensor.type) {
    case TensorType::kF64:
      return static_cast<float>(load<double>(at));
    case TensorType::kF32:
      return load<float>(at);
    case TensorType::kF16:
      return codec::float_from_half(load<std::uint16_t>(at));
    case TensorType::kF8E4M3:
      return codec::float_from_e4m3(*at);
    case TensorType::kF8E5M2:
      return codec::float_from_e5m2(*at);
    default:
      return codec::float_from_bfloat(load<std::uint16_t>(at));
  }
}

}  // namespace fairway::formats
