// Reader of tests/codec/data/exl3_vectors.bin (written by tools/make_codec_vectors.py).
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace fairway::test {

struct Vectors {
  std::map<std::string, std::vector<std::uint16_t>> words;
  std::map<std::string, std::vector<float>> floats;
};

inline Vectors load_vectors() {
  const std::string path = FAIRWAY_SOURCE_DIR "/tests/codec/data/exl3_vectors.bin";
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (bytes.size() < 8 || std::memcmp(bytes.data(), "FWVEC01\n", 8) != 0)
    throw std::runtime_error(path + ": not a vector file");
  constexpr std::size_t kHeader = 32;
  Vectors vectors;
  for (std::size_t at = 8; at < bytes.size();) {
    if (bytes.size() - at < kHeader) throw std::runtime_error(path + ": truncated header");
    const std::string name(bytes.data() + at, strnlen(bytes.data() + at, 24));
    std::uint32_t type, count;
    std::memcpy(&type, bytes.data() + at + 24, 4);
    std::memcpy(&count, bytes.data() + at + 28, 4);
    at += kHeader;
    const std::size_t size = std::size_t{count} * (type == 0 ? 2 : 4);
    if (bytes.size() - at < size) throw std::runtime_error(path + ": truncated array " + name);
    void* destination;
    if (type == 0) {
      vectors.words[name].resize(count);
      destination = vectors.words[name].data();
    } else {
      vectors.floats[name].resize(count);
      destination = vectors.floats[name].data();
    }
    std::memcpy(destination, bytes.data() + at, size);
    at += size;
  }
  return vectors;
}

}  // namespace fairway::test
