// Opening a model directory: which files belong to it, one name space over all of them, agreement with the index.
#include "formats/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "fairway/error.h"
#include "formats/checkpoint_state.h"
#include "formats/json.h"
#include "formats/mapped_file.h"
#include "formats/tensor_values.h"

namespace fairway::formats {
namespace {

constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr std::size_t kMaxIndexBytes = 256u << 20;

void check_file_name(const std::string& file, const std::string& tensor, const std::string& index) {
  const bool plain = !file.empty() && file.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos &&
                     !file.starts_with('.') && file.ends_with(".safetensors");
  if (!plain) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: tensor \"{}\" is said to be in \"{}\", expected the plain name of a .safetensors file",
                            index, printable(tensor), printable(file)));
  }
}

}  // namespace

std::vector<std::filesystem::path> list_safetensors(const std::filesystem::path& model_dir) {
  std::error_code error;
  std::filesystem::directory_iterator it(model_dir, error);
  std::vector<std::filesystem::path> paths;
  for (const std::filesystem::directory_iterator end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.ends_with(".safetensors") && !name.starts_with('.')) paths.push_back(it->path());
  }
  if (error) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: cannot read the model directory: {}", model_dir.string(), error.message()));
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::string tensor_subject(const Checkpoint& checkpoint, const TensorView& tensor) {
  return fmt::format("{}: tensor \"{}\"", checkpoint.file_of(tensor).string(), printable(tensor.name));
}

std::string describe(const TensorView& tensor) {
  return fmt::format("{} of shape [{}]", tensor_type_name(tensor.type), fmt::join(tensor.shape, ", "));
}

std::vector<float> finite_floats(const Checkpoint& checkpoint, const TensorView& tensor) {
  if (!is_plain_float(tensor.type)) {
    throw Error(ErrorKind::kBadInput, fmt::format("{} is {}, expected F16, BF16, F32 or F64",
                                                  tensor_subject(checkpoint, tensor), describe(tensor)));
  }
  std::vector<float> values(tensor.bytes.size() / static_cast<std::size_t>(tensor_type_bytes(tensor.type)));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = float_at(tensor, i);
    if (!std::isfinite(values[i])) {
      throw Error(ErrorKind::kBadInput, fmt::format("{} is {} at index {}, expected finite values",
                                                    tensor_subject(checkpoint, tensor), values[i], i));
    }
  }
  return values;
}

const Checkpoint::State::Item* Checkpoint::State::find(std::string_view name) const {
  const auto at = std::lower_bound(items.begin(), items.end(), name,
                                   [](const Item& item, std::string_view key) { return item.tensor->name < key; });
  return at != items.end() && at->tensor->name == name ? &*at : nullptr;
}

namespace {

// Both directions: what the index lists is where it says, and nothing is stored that the index does not list.
void check_index(const std::filesystem::path& index_path, const Checkpoint& checkpoint,
                 const std::vector<SafetensorsFile>& files) {
  const std::string index = index_path.string();
  const nlohmann::json document =
      parse_json(read_text_file(index_path, kMaxIndexBytes), index, {.max_depth = 16, .max_bytes = kMaxIndexBytes});
  const auto map = document.is_object() ? document.find("weight_map") : document.end();
  if (!document.is_object() || map == document.end() || !map->is_object()) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: has no object weight_map", index));
  }
  std::set<std::string> names;
  for (const SafetensorsFile& file : files) names.insert(file.path().filename().string());
  for (const auto& [tensor, value] : map->items()) {
    if (!value.is_string()) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: weight_map of \"{}\" is not a string", index, printable(tensor)));
    }
    const auto& file = value.get_ref<const std::string&>();
    check_file_name(file, tensor, index);
    const TensorView* found = checkpoint.find(tensor);
    if (!names.contains(file)) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: lists the shard {}, which is not in the directory (tensor \"{}\")", index,
                              printable(file), printable(tensor)));
    }
    if (found == nullptr) {
      throw Error(ErrorKind::kBadInput, fmt::format("{}: lists tensor \"{}\" in {}, which does not hold it", index,
                                                    printable(tensor), printable(file)));
    }
    if (checkpoint.file_of(*found).filename() != file) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: lists tensor \"{}\" in {}, but it is in {}", index, printable(tensor),
                              printable(file), checkpoint.file_of(*found).filename().string()));
    }
  }
  for (const TensorView* tensor : checkpoint.tensors()) {
    if (!map->contains(tensor->name)) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{} is not listed in {}", tensor_subject(checkpoint, *tensor), kIndexName));
    }
  }
}

}  // namespace

Checkpoint::Checkpoint() : state_(std::make_shared<State>()) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Checkpoint Checkpoint::open(const std::filesystem::path& model_dir) {
  Checkpoint checkpoint;
  State& state = *checkpoint.state_;
  state.directory = model_dir;
  const auto paths = list_safetensors(model_dir);
  const std::filesystem::path index = model_dir / kIndexName;
  const bool has_index = is_present(index);
  if (paths.empty() && !has_index) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: holds no *.safetensors file", model_dir.string()));
  }
  for (const auto& path : paths) state.files.push_back(SafetensorsFile::open(path));

  for (std::size_t file = 0; file < state.files.size(); ++file) {
    for (const TensorView& tensor : state.files[file].tensors()) state.items.push_back({&tensor, file});
  }
  std::stable_sort(state.items.begin(), state.items.end(),
                   [](const State::Item& a, const State::Item& b) { return a.tensor->name < b.tensor->name; });
  const auto twice =
      std::adjacent_find(state.items.begin(), state.items.end(),
                         [](const State::Item& a, const State::Item& b) { return a.tensor->name == b.tensor->name; });
  if (twice != state.items.end()) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: tensor \"{}\" is also in {}", state.files[(twice + 1)->file].path().string(),
                            printable(twice->tensor->name), state.files[twice->file].path().filename().string()));
  }
  if (has_index) check_index(index, checkpoint, state.files);
  return checkpoint;
}

const std::filesystem::path& Checkpoint::directory() const {
  return state_->directory;
}

const TensorView* Checkpoint::find(std::string_view name) const {
  const State::Item* item = state_->find(name);
  return item == nullptr ? nullptr : item->tensor;
}

const TensorView& Checkpoint::require(std::string_view name) const {
  const TensorView* tensor = find(name);
  if (tensor == nullptr) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: tensor \"{}\" is missing", state_->directory.string(), printable(name)));
  }
  return *tensor;
}

std::vector<const TensorView*> Checkpoint::tensors() const {
  std::vector<const TensorView*> all;
  all.reserve(state_->items.size());
  for (const State::Item& item : state_->items) all.push_back(item.tensor);
  return all;
}

std::filesystem::path Checkpoint::file_of(const TensorView& tensor) const {
  const State::Item* item = state_->find(tensor.name);
  return item == nullptr ? std::filesystem::path() : state_->files[item->file].path();
}

std::int64_t Checkpoint::file_bytes() const {
  std::int64_t sum = 0;
  for (const SafetensorsFile& file : state_->files) sum += file.file_bytes();
  return sum;
}

void Checkpoint::release() const {
  for (const SafetensorsFile& file : state_->files) file.release();
}

std::vector<float> Checkpoint::read_vector(std::string_view name, std::int64_t count) const {
  const TensorView& tensor = require(name);
  if (tensor.shape.size() != 1 || (count >= 0 && tensor.shape[0] != count)) {
    throw Error(ErrorKind::kBadInput, fmt::format("{} is {}, expected shape [{}]", tensor_subject(*this, tensor),
                                                  describe(tensor), count < 0 ? "n" : fmt::to_string(count)));
  }
  return finite_floats(*this, tensor);
}

}  // namespace fairway::formats
