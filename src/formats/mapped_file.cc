// POSIX side of MappedFile and read_text_file.
#include "formats/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "fairway/error.h"

namespace fairway::formats {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* what, int error) {
  throw Error(ErrorKind::kBadInput, fmt::format("{}: {}: {}", path.string(), what, std::strerror(error)));
}

class OpenFile {
 public:
  explicit OpenFile(const std::filesystem::path& path) {
    // Without O_NONBLOCK, opening a FIFO that someone put there would wait for ever.
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd_ < 0) fail(path, "cannot open", errno);
    struct stat info {};
    const int status = ::fstat(fd_, &info);
    const int error = errno;
    if (status != 0 || !S_ISREG(info.st_mode)) {
      ::close(fd_);
      if (status != 0) fail(path, "cannot stat", error);
      throw Error(ErrorKind::kBadInput, fmt::format("{}: not a regular file", path.string()));
    }
    size_ = static_cast<std::size_t>(info.st_size);
  }
  ~OpenFile() { ::close(fd_); }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  int fd() const { return fd_; }
  std::size_t size() const { return size_; }

 private:
  int fd_ = -1;
  std::size_t size_ = 0;
};

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  const OpenFile file(path);
  if (file.size() == 0) return;  // mmap refuses a length of zero
  void* address = ::mmap(nullptr, file.size(), PROT_READ, MAP_SHARED, file.fd(), 0);
  if (address == MAP_FAILED) fail(path, "cannot map", errno);
  data_ = static_cast<const std::uint8_t*>(address);
  size_ = file.size();
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::uint8_t*>(data_), size_);
}

// Of a shared mapping that nobody writes to, the kernel drops page table entries and nothing else, so it cannot fail.
void MappedFile::release() const {
  if (data_ != nullptr) ::madvise(const_cast<std::uint8_t*>(data_), size_, MADV_DONTNEED);
}

std::string read_text_file(const std::filesystem::path& path, std::size_t max_bytes) {
  const OpenFile file(path);
  if (file.size() > max_bytes) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: {} bytes is larger than {}, the limit here", path.string(), file.size(), max_bytes));
  }
  std::string text(file.size(), '\0');
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(file.fd(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path, "cannot read", errno);
    if (got == 0) break;  // shrank since fstat
    done += static_cast<std::size_t>(got);
  }
  text.resize(done);
  return text;
}

bool is_present(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::symlink_status(path, error).type() != std::filesystem::file_type::not_found;
}

}  // namespace fairway::formats
