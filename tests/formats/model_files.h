// Building blocks of the format tests: raw safetensors bytes, model directories as editable maps, and caught errors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "common/tiny_checkpoint.h"
#include "fairway/error.h"
#include "formats/safetensors.h"
#include "formats/safetensors_writer.h"

namespace fairway::test {

struct StoredTensor {
  formats::TensorType type;
  std::vector<std::int64_t> shape;
  std::vector<std::uint8_t> bytes;
};
using TensorMap = std::map<std::string, StoredTensor>;

inline void write_file(const std::filesystem::path& path, const std::string& content) {
  std::ofstream out(path, std::ios::binary);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  if (!out.flush()) throw std::runtime_error("cannot write " + path.string());
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

// Eight bytes of length, the header, the data.
inline std::string raw_safetensors(const std::string& header, const std::string& data) {
  std::string file(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(std::uint64_t{header.size()} >> (8 * i));
  return file + header + data;
}

inline TensorMap read_tensors(const std::filesystem::path& path) {
  const auto file = formats::SafetensorsFile::open(path);
  TensorMap map;
  for (const auto& t : file.tensors()) map[t.name] = {t.type, t.shape, {t.bytes.begin(), t.bytes.end()}};
  return map;
}

inline void write_tensors(const std::filesystem::path& path, const TensorMap& map) {
  std::vector<formats::TensorSpec> specs;
  for (const auto& [name, tensor] : map) specs.push_back({name, tensor.type, tensor.shape});
  formats::SafetensorsWriter writer(path, specs);
  for (const auto& [name, tensor] : map) writer.write(tensor.bytes);
  writer.finish();
}

template <typename T>
StoredTensor make_tensor(formats::TensorType type, std::vector<std::int64_t> shape, const std::vector<T>& values) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(values.data());
  return {type, std::move(shape), {bytes, bytes + values.size() * sizeof(T)}};
}

// The Error that `step` throws; an empty message if it throws none.
struct Caught {
  std::string message;
  ErrorKind kind = ErrorKind::kUsage;
};

inline Caught catch_error(const std::function<void()>& step) {
  try {
    step();
  } catch (const Error& error) {
    return {error.what(), error.kind()};
  }
  return {};
}

// Two layers (one dense, one of two experts), as small as the format's 128-blocks allow.
inline TinySpec smallest_spec(formats::Architecture architecture) {
  TinySpec spec;
  spec.architecture = architecture;
  spec.hidden = 128;
  spec.heads = 2;
  spec.kv_heads = 1;
  spec.experts = 2;
  spec.top_k = 1;
  spec.expert_intermediate = 64;
  spec.dense_intermediate = 128;
  return spec;
}

}  // namespace fairway::test
