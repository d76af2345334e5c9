// Copies long ranges of host memory, such as the weights of a mapped file, to a CUDA device.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "backend/cuda/event.h"
#include "backend/cuda/pinned_buffer.h"
#include "backend/cuda/stream.h"

namespace fairway::backend {

// Two pinned buffers take turns: while the device copies one, this thread fills the other, which for a mapped file is
// when its pages are read. Short ranges share a buffer. One thread at a time; several uploaders on several threads read
// a file faster.
class Uploader {
 public:
  static constexpr std::size_t kDefaultChunkBytes = std::size_t{16} << 20;  // far above what starting a copy costs

  // Error(kUsage) if chunk_bytes is 0; throws as PinnedBuffer does.
  explicit Uploader(int device, std::size_t chunk_bytes = kDefaultChunkBytes);
  ~Uploader();  // waits for copies under way
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;

  // Has read all of `from` when it returns; the last two chunks may still be on their way. Any size and alignment.
  void upload(void* device_to, std::span<const std::uint8_t> from);

  // Blocks until everything uploaded so far has arrived. To let a stream wait instead, give wait_for() `arrived()`.
  void finish();
  const CudaEvent& arrived();  // a mark after everything uploaded so far

  std::size_t uploaded_bytes() const { return uploaded_bytes_; }

 private:
  struct Slot {
    Slot(int device, std::size_t bytes) : buffer(device, bytes), copied(device) {}
    PinnedBuffer buffer;
    CudaEvent copied;  // the device has read the buffer
  };

  CudaStream stream_;
  std::array<Slot, 2> slots_;
  CudaEvent arrived_;
  std::size_t next_slot_ = 0, slot_bytes_ = 0, uploaded_bytes_ = 0;  // slot_bytes_: of the next slot that are in use
};

}  // namespace fairway::backend
