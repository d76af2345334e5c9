// SHA-256 of bytes and files, for parts and manifests. OpenSSL's, which uses the processor's SHA instructions.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace fairway::formats {

using Digest = std::array<std::uint8_t, 32>;

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void add(std::span<const std::uint8_t> bytes);
  void add(std::string_view text);
  Digest finish();  // once

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string hex(const Digest& digest);  // 64 digits

struct FileDigest {
  std::string sha256;  // 64 hex digits
  std::int64_t bytes = 0;
};

// Of a regular file. Error(kBadInput) if it cannot be read, Error(kCancelled) once `cancel` is set.
FileDigest digest_file(const std::filesystem::path& path, const std::atomic<bool>* cancel = nullptr);

}  // namespace fairway::formats
