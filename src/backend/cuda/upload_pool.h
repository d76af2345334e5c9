// Copies many ranges of host memory, such as the weights of mapped files, to a CUDA device, on several threads.
// Compiles without a CUDA toolkit.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace fairway::backend {

// Each thread has an Uploader of its own: while the device copies one chunk the thread reads the next one, and the
// threads read different places of a file at the same time, which is what disks need to be fast. Ranges are begun in
// the order of add(); add() and finish() are for one thread.
class UploadPool {
 public:
  static constexpr std::size_t kDefaultChunkBytes = std::size_t{4} << 20;

  // threads: at least 1; each locks two chunks of memory. Errors of the threads come out of finish().
  UploadPool(int device, int threads, std::size_t chunk_bytes = kDefaultChunkBytes);
  ~UploadPool();  // what has not been begun is left out; waits for the rest
  UploadPool(const UploadPool&) = delete;
  UploadPool& operator=(const UploadPool&) = delete;

  // `from` must stay as it is until finish() has returned, or this is destroyed.
  void add(void* device_to, std::span<const std::uint8_t> from);

  // Blocks until all has arrived and throws what a thread threw first. Every twentieth of a second it calls
  // `meanwhile`, which may throw. Nothing can be added afterwards.
  void finish(const std::function<void()>& meanwhile = {});

  std::size_t uploaded_bytes() const { return uploaded_bytes_; }  // handed to the device so far

 private:
  struct Piece {
    std::uint8_t* to;
    std::span<const std::uint8_t> from;
  };
  void work();
  bool take(Piece& piece);
  void close(bool drop);

  int device_;
  std::size_t chunk_bytes_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> pieces_;
  bool closed_ = false;
  std::size_t running_ = 0;
  std::exception_ptr error_;
  std::atomic<std::size_t> uploaded_bytes_ = 0;
  std::vector<std::thread> threads_;
};

// Threads that read weights about as fast as a disk gives them: 8, or as many as there are processors.
int upload_threads();

}  // namespace fairway::backend
