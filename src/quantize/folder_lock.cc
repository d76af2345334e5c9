// flock on a file inside the folder; the system lets go of it when the process ends, however it ends.
#include "quantize/folder_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "fairway/error.h"

namespace fairway::quantize {
namespace {

std::string owner_of(int fd) {
  char text[32] = {};
  const ssize_t length = ::pread(fd, text, sizeof text - 1, 0);
  const std::string owner(text, length > 0 ? static_cast<std::size_t>(length) : 0);
  return owner.empty() ? "another process" : "process " + owner;
}

// Whether the file that is locked still has the name: its former owner may have removed it in between.
bool is_current(int fd, const std::filesystem::path& path) {
  struct stat held {
  }, named{};
  return ::fstat(fd, &held) == 0 && ::stat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino &&
         held.st_dev == named.st_dev;
}

}  // namespace

FolderLock::FolderLock(const std::filesystem::path& folder) : path_(folder / kName) {
  for (;;) {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd_ < 0) {
      throw Error(ErrorKind::kResource, fmt::format("{}: cannot create: {}", path_.string(), std::strerror(errno)));
    }
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      const int reason = errno;
      const std::string owner = owner_of(fd_);
      ::close(fd_);
      if (reason == EINTR) continue;
      if (reason == EWOULDBLOCK) {
        throw Error(ErrorKind::kUsage,
                    fmt::format("{}: in use by {}; wait for it or choose another --out", folder.string(), owner));
      }
      throw Error(ErrorKind::kResource, fmt::format("{}: cannot lock: {}", path_.string(), std::strerror(reason)));
    }
    if (is_current(fd_, path_)) break;
    ::close(fd_);
  }
  // Only for the message above: a text that cannot be written makes it less helpful and nothing else.
  const std::string pid = fmt::format("{}", ::getpid());
  if (::ftruncate(fd_, 0) == 0) [[maybe_unused]]
    const ssize_t written = ::pwrite(fd_, pid.data(), pid.size(), 0);
}

FolderLock::~FolderLock() {
  if (fd_ >= 0) ::close(fd_);
}

void FolderLock::remove() {
  if (fd_ < 0) return;
  ::unlink(path_.c_str());
  ::close(fd_);
  fd_ = -1;
}

}  // namespace fairway::quantize
