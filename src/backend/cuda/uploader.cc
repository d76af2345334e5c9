// Double buffering: fill one slot while the other is copied.
#include "backend/cuda/uploader.h"

#include <algorithm>
#include <cstring>

#include "backend/cuda/native.cuh"
#include "fairway/error.h"

namespace fairway::backend {
namespace {

std::size_t checked_chunk(std::size_t bytes) {
  if (bytes == 0) throw Error(ErrorKind::kUsage, "Uploader: chunks of 0 bytes; give at least 1");
  return bytes;
}

}  // namespace

Uploader::Uploader(int device, std::size_t chunk_bytes)
    : stream_(device), slots_{Slot(device, checked_chunk(chunk_bytes)), Slot(device, chunk_bytes)}, arrived_(device) {}

Uploader::~Uploader() {
  // Before the buffers go. If the device is lost nothing copies any more, and there is nobody to tell.
  (void)cudaStreamSynchronize(native(stream_));
}

void Uploader::upload(void* device_to, std::span<const std::uint8_t> from) {
  auto* to = static_cast<std::uint8_t*>(device_to);
  while (!from.empty()) {
    Slot& slot = slots_[next_slot_];
    std::uint8_t* const place = slot.buffer.data() + slot_bytes_;
    const std::size_t bytes = std::min(from.size(), slot.buffer.size() - slot_bytes_);
    if (slot_bytes_ == 0) slot.copied.wait();  // passed at once where the slot has not been used
    std::memcpy(place, from.data(), bytes);
    stream_.copy_to_device(to, place, bytes);
    to += bytes;
    from = from.subspan(bytes);
    uploaded_bytes_ += bytes;
    slot_bytes_ += bytes;
    if (slot_bytes_ < slot.buffer.size()) continue;
    slot.copied.record(stream_);
    next_slot_ = 1 - next_slot_;
    slot_bytes_ = 0;
  }
}

void Uploader::finish() {
  stream_.wait();
}

const CudaEvent& Uploader::arrived() {
  arrived_.record(stream_);
  return arrived_;
}

}  // namespace fairway::backend
