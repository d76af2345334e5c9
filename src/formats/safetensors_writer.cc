// Header first, then tensor bytes in the declared order, into a file that appears when everything is on disk.
#include "formats/safetensors_writer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>
#include <utility>

#include "fairway/error.h"
#include "formats/durable_file.h"
#include "formats/json.h"

namespace fairway::formats {
namespace {

constexpr std::size_t kDataAlignment = 8;  // of the first tensor's bytes, as the reference library pads

std::int64_t spec_bytes(const std::filesystem::path& path, const TensorSpec& spec) {
  std::int64_t bytes = tensor_type_bytes(spec.type);
  for (const std::int64_t extent : spec.shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes)) {
      throw Error(ErrorKind::kUsage, fmt::format("{}: tensor \"{}\": shape [{}] is negative or overflows",
                                                 path.string(), printable(spec.name), fmt::join(spec.shape, ", ")));
    }
  }
  return bytes;
}

// Throws unless the name can be a key: unique, not reserved, valid UTF-8.
std::string quoted_name(const std::filesystem::path& path, const TensorSpec& spec,
                        std::unordered_set<std::string>& seen) {
  if (spec.name == "__metadata__" || !seen.insert(spec.name).second) {
    throw Error(ErrorKind::kUsage, fmt::format("{}: tensor name \"{}\" is {}", path.string(), printable(spec.name),
                                               spec.name == "__metadata__" ? "reserved" : "declared twice"));
  }
  try {
    return nlohmann::json(spec.name).dump();
  } catch (const nlohmann::json::type_error&) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: tensor name \"{}\" is not valid UTF-8", path.string(), printable(spec.name)));
  }
}

}  // namespace

struct SafetensorsWriter::State {
  std::filesystem::path path;
  std::vector<TensorSpec> specs;
  std::vector<std::int64_t> sizes;  // bytes of each tensor
  std::size_t current = 0;          // tensor being filled
  std::int64_t filled = 0;          // bytes of it
  std::optional<DurableFile> file;

  std::string header() {
    std::string text = R"({"__metadata__":{"format":"pt"})";  // without it older Hugging Face loaders refuse the file
    std::unordered_set<std::string> seen;
    std::int64_t begin = 0;
    for (const TensorSpec& spec : specs) {
      const std::int64_t bytes = spec_bytes(path, spec);
      std::int64_t end;
      if (__builtin_add_overflow(begin, bytes, &end)) {
        throw Error(ErrorKind::kUsage, fmt::format("{}: tensor \"{}\" takes the file beyond 2^63 bytes", path.string(),
                                                   printable(spec.name)));
      }
      text += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", quoted_name(path, spec, seen),
                          tensor_type_name(spec.type), fmt::join(spec.shape, ","), begin, end);
      sizes.push_back(bytes);
      begin = end;
    }
    text += '}';
    text.resize((text.size() + kDataAlignment - 1) / kDataAlignment * kDataAlignment, ' ');
    return text;
  }

  void skip_full_tensors() {
    while (current < specs.size() && filled == sizes[current]) {
      ++current;
      filled = 0;
    }
  }
};

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, std::vector<TensorSpec> specs)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.path = std::move(path);
  s.specs = std::move(specs);
  const std::string header = s.header();
  s.file.emplace(s.path);
  std::uint8_t length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<std::uint8_t>(std::uint64_t{header.size()} >> (8 * i));
  s.file->write(length);
  s.file->write({reinterpret_cast<const std::uint8_t*>(header.data()), header.size()});
  s.skip_full_tensors();
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(std::span<const std::uint8_t> bytes) {
  State& s = *state_;
  if (bytes.empty()) return;
  if (!s.file->is_open()) throw Error(ErrorKind::kUsage, fmt::format("{}: written to after finish", s.path.string()));
  if (s.current == s.specs.size()) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: {} bytes beyond the last declared tensor", s.path.string(), bytes.size()));
  }
  const std::int64_t room = s.sizes[s.current] - s.filled;
  if (bytes.size() > static_cast<std::uint64_t>(room)) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: tensor \"{}\": {} bytes written where {} of {} are left", s.path.string(),
                            printable(s.specs[s.current].name), bytes.size(), room, s.sizes[s.current]));
  }
  s.file->write(bytes);
  s.filled += static_cast<std::int64_t>(bytes.size());
  s.skip_full_tensors();
}

void SafetensorsWriter::finish() {
  State& s = *state_;
  if (!s.file->is_open()) throw Error(ErrorKind::kUsage, fmt::format("{}: finished twice", s.path.string()));
  if (s.current != s.specs.size()) {
    throw Error(ErrorKind::kUsage, fmt::format("{}: tensor \"{}\" has {} of {} bytes", s.path.string(),
                                               printable(s.specs[s.current].name), s.filled, s.sizes[s.current]));
  }
  s.file->finish();
}

}  // namespace fairway::formats
