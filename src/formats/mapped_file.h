// A file mapped read-only for as long as the object lives, and whole small files as text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace fairway::formats {

class MappedFile {
 public:
  // Maps the whole regular file (symbolic links are followed). An empty file gives no bytes. Throws Error(kBadInput)
  // with the path and the system's reason. The file must not shrink while it is mapped.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::uint8_t> bytes() const { return {data_, size_}; }

  // Gives back the memory of the pages that were read; they are read again when touched. Views stay valid.
  void release() const;

 private:
  const std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
};

// The content of a regular file of at most max_bytes. Throws Error(kBadInput) with the path and the reason.
std::string read_text_file(const std::filesystem::path& path, std::size_t max_bytes);

// Whether the name exists, also as a dangling link: an optional file that is there but unreadable is an error, not
// absent.
bool is_present(const std::filesystem::path& path);

}  // namespace fairway::formats
