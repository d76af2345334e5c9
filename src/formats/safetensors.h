// One safetensors file, mapped read-only, with its header fully validated before any tensor is handed out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fairway::formats {

enum class TensorType {
  kF64,
  kF32,
  kF16,
  kBf16,
  kF8E4M3,
  kF8E5M2,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool
};

const char* tensor_type_name(TensorType type);  // as in the file: "BF16"
int tensor_type_bytes(TensorType type);
std::optional<TensorType> tensor_type_from_name(std::string_view name);

struct TensorView {
  std::string name;
  TensorType type;
  std::vector<std::int64_t> shape;
  std::span<const std::uint8_t> bytes;  // into the mapping; no alignment is promised
};

class SafetensorsFile {
 public:
  // Maps and validates: header length, JSON depth and size, known dtypes, shape products without overflow, dtype x
  // shape = bytes, offsets inside the file, no overlap, no hole, no duplicate name. Throws Error(kBadInput) with the
  // file and, where there is one, the tensor.
  static SafetensorsFile open(const std::filesystem::path& path);

  const std::filesystem::path& path() const;
  std::span<const TensorView> tensors() const;  // sorted by name
  const TensorView* find(std::string_view name) const;
  std::int64_t file_bytes() const;
  void release() const;  // as MappedFile::release

 private:
  SafetensorsFile() = default;
  struct Mapping;
  std::shared_ptr<const Mapping> mapping_;
};

// The same validation of a whole file in memory, `name` standing for its path. Sorted by name; bytes point into `data`.
// Memory stays in proportion to the header: no allocation follows from a length that the file merely claims.
std::vector<TensorView> parse_safetensors(std::span<const std::uint8_t> data, const std::string& name);

}  // namespace fairway::formats
