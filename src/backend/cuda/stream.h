// A queue of work on one CUDA device, in order.
#pragma once

#include <cstddef>

namespace fairway::backend {

class CudaEvent;

// Does not wait for the legacy default stream, nor that for it. Calls from several threads are safe but their order is
// then anyone's guess. No call but wait() blocks, except as said at copy_to_host(). Kernels are launched on
// native(stream) of native.cuh, under a DeviceScope of its device.
class CudaStream {
 public:
  // Throws as require_cuda_device() does.
  explicit CudaStream(int device);
  ~CudaStream();  // what was queued still runs
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  // Queued copies. Host memory from PinnedBuffer must stay as it is until the copy has run. Any other host memory is
  // read before copy_to_device() returns, and copy_to_host() returns after it has been written.
  void copy_to_device(void* device_to, const void* host_from, std::size_t bytes);
  void copy_to_host(void* host_to, const void* device_from, std::size_t bytes);
  void copy_on_device(void* device_to, const void* device_from, std::size_t bytes);  // ranges may not overlap
  void fill(void* device_to, unsigned char value, std::size_t bytes);

  void wait_for(const CudaEvent& event);  // what is queued from now on runs after the event, also of another device
  void wait();                            // blocks until all that is queued has run; reports errors of kernels

  int device() const { return device_; }
  void* handle() const { return handle_; }  // cudaStream_t

 private:
  int device_;
  void* handle_ = nullptr;
};

}  // namespace fairway::backend
