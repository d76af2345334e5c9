// Bump allocation in one block of device memory.
#include "backend/cuda/arena.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "backend/cuda/check.cuh"
#include "backend/cuda/device.h"
#include "backend/cuda/device_scope.cuh"
#include "fairway/error.h"

namespace fairway::backend {
namespace {

constexpr std::size_t kMaxBytes = std::numeric_limits<std::size_t>::max();

[[noreturn]] void throw_device_full(int device, std::size_t bytes) {
  const CudaMemory memory = cuda_memory(device);
  throw Error(ErrorKind::kResource,
              fmt::format("CUDA device {} ({}) cannot give {} bytes: {} of its {} bytes are free. Free memory on the "
                          "device, or use a smaller model, context or batch",
                          device, cuda_device_info(device).name, bytes, memory.free_bytes, memory.total_bytes));
}

}  // namespace

std::size_t DeviceArena::rounded(std::size_t bytes) {
  if (bytes > kMaxBytes - (kAlignment - 1)) {
    throw Error(ErrorKind::kResource, fmt::format("{} bytes are more than any CUDA device has", bytes));
  }
  return std::max((bytes + kAlignment - 1) / kAlignment * kAlignment, kAlignment);
}

DeviceArena::DeviceArena(int device, std::size_t bytes) : device_(device), capacity_(bytes) {
  const DeviceScope scope(device);
  void* data = nullptr;
  const cudaError_t status = bytes == 0 ? cudaSuccess : cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    throw_device_full(device, bytes);
  }
  check_cuda(status, "cudaMalloc");
  data_ = static_cast<std::byte*>(data);
}

DeviceArena::~DeviceArena() {
  (void)cudaFree(data_);  // fails only if the device is lost, and its memory with it
}

void* DeviceArena::alloc_bytes(std::size_t count, std::size_t element_bytes, std::string_view what) {
  const std::size_t left = capacity_ - used_;
  // Divided before it is multiplied: the product may be no number.
  if (count > left / element_bytes || rounded(count * element_bytes) > left) {
    throw Error(ErrorKind::kResource,
                fmt::format("{} needs {} x {} bytes, the arena on CUDA device {} has {} of {} bytes left", what, count,
                            element_bytes, device_, left, capacity_));
  }
  std::byte* const p = data_ + used_;
  used_ += rounded(count * element_bytes);
  return p;
}

}  // namespace fairway::backend
