// What a Checkpoint holds; shared by the files that implement it.
#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/safetensors.h"

namespace fairway::formats {

struct Checkpoint::State {
  struct Item {
    const TensorView* tensor;
    std::size_t file;
  };

  std::filesystem::path directory;
  std::vector<SafetensorsFile> files;
  std::vector<Item> items;  // sorted by tensor name

  // Converted scale and bias vectors, equal ones once: kernels know by the address that experts share a scale. Nodes
  // never move, so views stay valid.
  std::mutex owned_mutex;
  std::map<std::string, const float*> owned;  // by tensor name and stored length
  std::set<std::vector<float>> owned_values;

  const Item* find(std::string_view name) const;
};

// "FILE: tensor "x"", the start of every message about one tensor.
std::string tensor_subject(const Checkpoint& checkpoint, const TensorView& tensor);
// "F16 of shape [4, 5]".
std::string describe(const TensorView& tensor);
// F64, F32, F16 or BF16 elements as float, all finite; anything else is Error(kBadInput). Of any shape.
std::vector<float> finite_floats(const Checkpoint& checkpoint, const TensorView& tensor);

// Error(kUnsupported) if the linear at module key `prefix` seems to be stored in a form that is not read, otherwise
// Error(kBadInput) with what was looked for and what of it was found.
[[noreturn]] void fail_missing_linear(const Checkpoint& checkpoint, const std::string& prefix);

// Files named *.safetensors of a directory, sorted by name; hidden ones are left out.
std::vector<std::filesystem::path> list_safetensors(const std::filesystem::path& model_dir);

}  // namespace fairway::formats
