// A queue of pieces of at most a chunk.
#include "backend/cuda/upload_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "backend/cuda/device.h"
#include "backend/cuda/device_scope.cuh"
#include "backend/cuda/uploader.h"
#include "fairway/error.h"

namespace fairway::backend {
namespace {

// Asks the system to read the pages if they are of a file and not in memory, all at once instead of as they are
// touched.
void ask_for(std::span<const std::uint8_t> bytes) {
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data()) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(bytes.data() + bytes.size());
  (void)::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);  // advice only
}

}  // namespace

UploadPool::UploadPool(int device, int threads, std::size_t chunk_bytes) : device_(device), chunk_bytes_(chunk_bytes) {
  require_cuda_device(device);
  if (threads < 1 || chunk_bytes < 1) {
    throw Error(ErrorKind::kUsage, "UploadPool: no threads, or chunks of no bytes");
  }
  running_ = static_cast<std::size_t>(threads);
  threads_.reserve(running_);
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

UploadPool::~UploadPool() {
  close(true);
}

void UploadPool::add(void* device_to, std::span<const std::uint8_t> from) {
  auto* to = static_cast<std::uint8_t*>(device_to);
  {
    const std::lock_guard lock(mutex_);
    if (closed_) throw Error(ErrorKind::kUsage, "UploadPool: a range after finish()");
    while (!from.empty()) {
      const std::size_t bytes = std::min(from.size(), chunk_bytes_);
      pieces_.push_back({to, from.first(bytes)});
      to += bytes;
      from = from.subspan(bytes);
    }
  }
  changed_.notify_all();
}

void UploadPool::finish(const std::function<void()>& meanwhile) {
  {
    std::unique_lock lock(mutex_);
    closed_ = true;
    changed_.notify_all();
    while (!changed_.wait_for(lock, std::chrono::milliseconds(50), [&] { return running_ == 0; })) {
      if (!meanwhile) continue;
      lock.unlock();
      meanwhile();
      lock.lock();
    }
  }
  close(false);
  if (error_) std::rethrow_exception(error_);
}

void UploadPool::close(bool drop) {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    if (drop) pieces_.clear();
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

bool UploadPool::take(Piece& piece) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return closed_ || error_ || !pieces_.empty(); });
  if (error_ || pieces_.empty()) return false;
  piece = pieces_.front();
  pieces_.pop_front();
  return true;
}

void UploadPool::work() {
  std::exception_ptr error;
  try {
    const DeviceScope scope(device_);
    Uploader uploader(device_, chunk_bytes_);
    for (Piece piece; take(piece);) {
      ask_for(piece.from);
      uploader.upload(piece.to, piece.from);
      uploaded_bytes_ += piece.from.size();
    }
    uploader.finish();
  } catch (...) {
    error = std::current_exception();
  }
  {
    const std::lock_guard lock(mutex_);
    if (error && !error_) error_ = error;
    --running_;
  }
  changed_.notify_all();
}

int upload_threads() {
  constexpr unsigned kMost = 8;
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, kMost));
}

}  // namespace fairway::backend
