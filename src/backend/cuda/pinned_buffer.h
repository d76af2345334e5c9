// Host memory that a CUDA device copies from and to by itself, while the host goes on.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fairway::backend {

// Locked into memory, so take little of it. All devices may use it.
class PinnedBuffer {
 public:
  // Error(kResource) with the size if the host cannot lock that much; throws as require_cuda_device() does.
  PinnedBuffer(int device, std::size_t bytes);
  ~PinnedBuffer();  // copies that use it must have ended
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;

  std::uint8_t* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  std::uint8_t* data_ = nullptr;
  std::size_t size_;
};

}  // namespace fairway::backend
