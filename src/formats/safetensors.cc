// The table of tensor types, and a mapped file with its checked tensors.
#include "formats/safetensors.h"

#include <algorithm>
#include <array>

#include "formats/mapped_file.h"

namespace fairway::formats {
namespace {

struct TypeRow {
  TensorType type;
  const char* name;
  int bytes;
};

// In the order of the enumeration, so that a type is also its row.
constexpr std::array<TypeRow, 15> kTypes = {{{TensorType::kF64, "F64", 8},
                                             {TensorType::kF32, "F32", 4},
                                             {TensorType::kF16, "F16", 2},
                                             {TensorType::kBf16, "BF16", 2},
                                             {TensorType::kF8E4M3, "F8_E4M3", 1},
                                             {TensorType::kF8E5M2, "F8_E5M2", 1},
                                             {TensorType::kI64, "I64", 8},
                                             {TensorType::kI32, "I32", 4},
                                             {TensorType::kI16, "I16", 2},
                                             {TensorType::kI8, "I8", 1},
                                             {TensorType::kU64, "U64", 8},
                                             {TensorType::kU32, "U32", 4},
                                             {TensorType::kU16, "U16", 2},
                                             {TensorType::kU8, "U8", 1},
                                             {TensorType::kBool, "BOOL", 1}}};

constexpr bool rows_match_enumeration() {
  for (std::size_t i = 0; i < kTypes.size(); ++i) {
    if (static_cast<std::size_t>(kTypes[i].type) != i) return false;
  }
  return true;
}
static_assert(rows_match_enumeration());

}  // namespace

const char* tensor_type_name(TensorType type) {
  return kTypes[static_cast<std::size_t>(type)].name;
}

int tensor_type_bytes(TensorType type) {
  return kTypes[static_cast<std::size_t>(type)].bytes;
}

std::optional<TensorType> tensor_type_from_name(std::string_view name) {
  for (const TypeRow& row : kTypes) {
    if (name == row.name) return row.type;
  }
  return std::nullopt;
}

struct SafetensorsFile::Mapping {
  explicit Mapping(const std::filesystem::path& file_path)
      : path(file_path), file(file_path), tensors(parse_safetensors(file.bytes(), file_path.string())) {}

  std::filesystem::path path;
  MappedFile file;
  std::vector<TensorView> tensors;
};

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  SafetensorsFile opened;
  opened.mapping_ = std::make_shared<const Mapping>(path);
  return opened;
}

const std::filesystem::path& SafetensorsFile::path() const {
  return mapping_->path;
}

std::span<const TensorView> SafetensorsFile::tensors() const {
  return mapping_->tensors;
}

const TensorView* SafetensorsFile::find(std::string_view name) const {
  const auto& tensors = mapping_->tensors;
  const auto at = std::lower_bound(tensors.begin(), tensors.end(), name,
                                   [](const TensorView& tensor, std::string_view key) { return tensor.name < key; });
  return at != tensors.end() && at->name == name ? &*at : nullptr;
}

std::int64_t SafetensorsFile::file_bytes() const {
  return static_cast<std::int64_t>(mapping_->file.bytes().size());
}

void SafetensorsFile::release() const {
  mapping_->file.release();
}

}  // namespace fairway::formats
