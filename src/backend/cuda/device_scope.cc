// The current device is a property of the calling thread.
#include "backend/cuda/device_scope.cuh"

#include "backend/cuda/check.cuh"
#include "backend/cuda/device.h"

namespace fairway::backend {

DeviceScope::DeviceScope(int device) : device_(device) {
  require_cuda_device(device);
  check_cuda(cudaGetDevice(&previous_), "cudaGetDevice");
  if (previous_ != device_) check_cuda(cudaSetDevice(device_), "cudaSetDevice");
}

DeviceScope::~DeviceScope() {
  if (previous_ != device_) (void)cudaSetDevice(previous_);  // was current before; fails only if lost since
}

}  // namespace fairway::backend
