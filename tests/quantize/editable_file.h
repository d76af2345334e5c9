// A safetensors file taken apart, changed and written again: for sources of other types and for damaged models.
#pragma once

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "codec/half.h"
#include "formats/safetensors.h"
#include "formats/safetensors_writer.h"

namespace fairway::test {

struct EditableTensor {
  formats::TensorSpec spec;
  std::vector<std::uint8_t> bytes;
};

struct EditableFile {
  std::filesystem::path path;
  std::vector<EditableTensor> tensors;

  explicit EditableFile(const std::filesystem::path& from) : path(from) {
    const auto file = formats::SafetensorsFile::open(from);
    for (const formats::TensorView& view : file.tensors()) {
      tensors.push_back({{view.name, view.type, view.shape}, {view.bytes.begin(), view.bytes.end()}});
    }
  }
  EditableTensor& at(const std::string& name) {
    const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.spec.name == name; });
    if (found == tensors.end()) throw std::runtime_error("no tensor " + name);
    return *found;
  }
  void erase(const std::string& name) {
    const EditableTensor* gone = &at(name);
    tensors.erase(tensors.begin() + (gone - tensors.data()));
  }
  void add(const std::string& name, formats::TensorType type, std::vector<std::int64_t> shape) {
    tensors.push_back({{name, type, std::move(shape)}, {}});
    std::size_t bytes = static_cast<std::size_t>(formats::tensor_type_bytes(type));
    for (const std::int64_t n : tensors.back().spec.shape) bytes *= static_cast<std::size_t>(n);
    tensors.back().bytes.resize(bytes);
  }
  void write() const {
    std::vector<formats::TensorSpec> specs;
    for (const EditableTensor& tensor : tensors) specs.push_back(tensor.spec);
    formats::SafetensorsWriter writer(path, specs);
    for (const EditableTensor& tensor : tensors) writer.write(tensor.bytes);
    writer.finish();
  }
};

template <class T>
void set_element(EditableTensor& tensor, std::size_t i, T value) {
  if ((i + 1) * sizeof(T) > tensor.bytes.size()) throw std::runtime_error("no such element in " + tensor.spec.name);
  std::memcpy(tensor.bytes.data() + i * sizeof(T), &value, sizeof(T));
}

// F32 -> BF16.
inline void narrow(EditableTensor& tensor) {
  std::vector<std::uint8_t> words(tensor.bytes.size() / 2);
  for (std::size_t i = 0; i < words.size() / 2; ++i) {
    float value;
    std::memcpy(&value, tensor.bytes.data() + 4 * i, sizeof value);
    const std::uint16_t word = codec::bfloat_from_float(value);
    std::memcpy(words.data() + 2 * i, &word, sizeof word);
  }
  tensor.spec.type = formats::TensorType::kBf16;
  tensor.bytes = std::move(words);
}

}  // namespace fairway::test
