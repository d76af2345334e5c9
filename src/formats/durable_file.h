// A file that appears under its name only when all of it is on disk: written beside it, flushed, renamed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace fairway::formats {

// What the unfinished file's name contains after the final one; a writer that was killed leaves such a file.
inline constexpr std::string_view kPartialMark = ".partial-";

// Every failure is Error(kResource) with the path, the number of bytes written and the system's reason.
class DurableFile {
 public:
  explicit DurableFile(std::filesystem::path path);  // creates the unfinished file
  ~DurableFile();                                    // removes it if finish() was not reached
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  void write(std::span<const std::uint8_t> bytes);  // buffered
  void finish();                                    // replaces a file that had the name before
  bool is_open() const { return fd_ >= 0; }
  const std::filesystem::path& path() const { return path_; }

 private:
  [[noreturn]] void fail(const char* what, int error) const;
  void flush();
  void send(std::span<const std::uint8_t> bytes);

  std::filesystem::path path_;
  std::filesystem::path partial_;
  int fd_ = -1;
  std::int64_t flushed_ = 0;  // bytes handed to the system
  std::vector<std::uint8_t> buffer_;
};

void write_file_durably(const std::filesystem::path& path, std::string_view text);

// Makes names in the directory durable; one that cannot be synced is not worth losing its files for.
void sync_directory(const std::filesystem::path& directory);

}  // namespace fairway::formats
