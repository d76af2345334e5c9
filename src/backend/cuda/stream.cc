// Copies and waits on a non-blocking stream.
#include "backend/cuda/stream.h"

#include <fmt/format.h>

#include "backend/cuda/check.cuh"
#include "backend/cuda/device_scope.cuh"
#include "backend/cuda/native.cuh"

namespace fairway::backend {
namespace {

void copy(const CudaStream& stream, void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
          const char* what) {
  if (bytes == 0) return;  // pointers of empty arrays need not be valid
  const cudaError_t status = cudaMemcpyAsync(to, from, bytes, kind, native(stream));
  if (status != cudaSuccess) check_cuda(status, fmt::format("cudaMemcpyAsync of {} bytes {}", bytes, what));
}

}  // namespace

CudaStream::CudaStream(int device) : device_(device) {
  const DeviceScope scope(device);
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  handle_ = stream;
}

CudaStream::~CudaStream() {
  (void)cudaStreamDestroy(native(*this));
}

void CudaStream::copy_to_device(void* device_to, const void* host_from, std::size_t bytes) {
  copy(*this, device_to, host_from, bytes, cudaMemcpyHostToDevice, "to the device");
}

void CudaStream::copy_to_host(void* host_to, const void* device_from, std::size_t bytes) {
  copy(*this, host_to, device_from, bytes, cudaMemcpyDeviceToHost, "to the host");
}

void CudaStream::copy_on_device(void* device_to, const void* device_from, std::size_t bytes) {
  copy(*this, device_to, device_from, bytes, cudaMemcpyDeviceToDevice, "on the device");
}

void CudaStream::fill(void* device_to, unsigned char value, std::size_t bytes) {
  if (bytes == 0) return;
  check_cuda(cudaMemsetAsync(device_to, value, bytes, native(*this)), "cudaMemsetAsync");
}

void CudaStream::wait_for(const CudaEvent& event) {
  check_cuda(cudaStreamWaitEvent(native(*this), native(event), 0), "cudaStreamWaitEvent");
}

void CudaStream::wait() {
  check_cuda(cudaStreamSynchronize(native(*this)), "cudaStreamSynchronize");
}

}  // namespace fairway::backend
