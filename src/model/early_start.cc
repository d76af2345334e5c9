// posix_fadvise, which returns when the reading has been queued.
#include "model/early_start.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "backend/cpu/memory_pressure.h"
#include "backend/cuda/device.h"

namespace fairway::model {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kPieceBytes = std::int64_t{8} << 20;
constexpr int kReaders = 4;
constexpr double kMostOfMemory = 0.5;

double available_bytes() {
  const double all = static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGESIZE));
  return (1.0 - backend::memory_pressure()) * all;
}

void open_context(int device) {
  try {
    backend::cuda_memory(device);
  } catch (...) {  // NOLINT(bugprone-empty-catch): the load says it
  }
}

}  // namespace

EarlyStart::EarlyStart(const fs::path& model_dir, int device) {
  threads_.emplace_back(open_context, device);
  open_files(model_dir);
  if (static_cast<double>(bytes_) > kMostOfMemory * available_bytes()) return;
  for (int i = 0; i < kReaders; ++i) threads_.emplace_back([this] { read(); });
}

EarlyStart::~EarlyStart() {
  stop_ = true;
  for (std::thread& thread : threads_) thread.join();
  for (const int file : files_) ::close(file);
}

void EarlyStart::open_files(const fs::path& model_dir) {
  std::error_code error;
  std::vector<fs::path> paths;
  fs::directory_iterator it(model_dir, error);
  for (const fs::directory_iterator end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".safetensors") paths.push_back(it->path());
  }
  std::sort(paths.begin(), paths.end());
  for (const fs::path& path : paths) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) continue;
    files_.push_back(file);
    struct stat info {};
    if (::fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) continue;
    for (std::int64_t begin = 0; begin < info.st_size; begin += kPieceBytes) {
      pieces_.push_back({file, begin, std::min<std::int64_t>(kPieceBytes, info.st_size - begin)});
    }
    bytes_ += info.st_size;
  }
}

void EarlyStart::read() {
  while (!stop_) {
    const std::size_t i = next_++;
    if (i >= pieces_.size()) return;
    (void)::posix_fadvise(pieces_[i].file, pieces_[i].begin, pieces_[i].bytes, POSIX_FADV_WILLNEED);
  }
}

}  // namespace fairway::model
