// cudaHostAlloc and its end.
#include "backend/cuda/pinned_buffer.h"

#include <fmt/format.h>

#include "backend/cuda/check.cuh"
#include "backend/cuda/device_scope.cuh"
#include "fairway/error.h"

namespace fairway::backend {

PinnedBuffer::PinnedBuffer(int device, std::size_t bytes) : size_(bytes) {
  const DeviceScope scope(device);
  if (bytes == 0) return;
  void* data = nullptr;
  const cudaError_t status = cudaHostAlloc(&data, bytes, cudaHostAllocPortable);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    throw Error(ErrorKind::kResource,
                fmt::format("the host cannot lock {} bytes of memory for copies to CUDA device {}; free some memory",
                            bytes, device));
  }
  check_cuda(status, "cudaHostAlloc");
  data_ = static_cast<std::uint8_t*>(data);
}

PinnedBuffer::~PinnedBuffer() {
  (void)cudaFreeHost(data_);
}

}  // namespace fairway::backend
