// POSIX side of DurableFile.
#include "formats/durable_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "fairway/error.h"

namespace fairway::formats {
namespace {

constexpr std::size_t kBufferBytes = 1u << 20;  // scale vectors are small; one write call per tensor would be slow

}  // namespace

DurableFile::DurableFile(std::filesystem::path path) : path_(std::move(path)) {
  for (int attempt = 0; fd_ < 0; ++attempt) {
    // Not ending in .safetensors, so that nobody who lists the directory takes the unfinished file for a shard.
    std::filesystem::path candidate = path_;
    candidate += fmt::format("{}{}-{}", kPartialMark, ::getpid(), attempt);
    fd_ = ::open(candidate.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0 && (errno != EEXIST || attempt == 100)) fail("cannot create a file beside it", errno);
    if (fd_ >= 0) partial_ = candidate;
  }
  buffer_.reserve(kBufferBytes);
}

DurableFile::~DurableFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!partial_.empty()) ::unlink(partial_.c_str());
}

void DurableFile::fail(const char* what, int error) const {
  throw Error(ErrorKind::kResource,
              fmt::format("{}: {} after {} bytes: {}", path_.string(), what, flushed_, std::strerror(error)));
}

void DurableFile::write(std::span<const std::uint8_t> bytes) {
  if (buffer_.size() + bytes.size() > kBufferBytes) flush();
  if (bytes.size() >= kBufferBytes) {
    send(bytes);
  } else {
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
}

void DurableFile::flush() {
  send(buffer_);
  buffer_.clear();
}

void DurableFile::send(std::span<const std::uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::write(fd_, bytes.data(), bytes.size());
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) fail("cannot write", sent < 0 ? errno : ENOSPC);
    flushed_ += sent;
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
  }
}

void DurableFile::finish() {
  flush();
  if (::fsync(fd_) != 0) fail("cannot flush to disk", errno);
  if (::close(std::exchange(fd_, -1)) != 0) fail("cannot close", errno);
  if (std::rename(partial_.c_str(), path_.c_str()) != 0) fail("cannot rename to the final name", errno);
  partial_.clear();
  sync_directory(path_.parent_path());
}

void write_file_durably(const std::filesystem::path& path, std::string_view text) {
  DurableFile file(path);
  file.write({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  file.finish();
}

void sync_directory(const std::filesystem::path& directory) {
  const int fd = ::open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

}  // namespace fairway::formats
