// Without a CUDA toolkit there is no device to check rows on.
#include "kernels/verify/device_check.h"

#include "backend/cuda/device.h"

namespace fairway::verify {

std::vector<DeviceRowReport> check_cuda_rows(std::span<const kernels::CudaRow* const>, int device, const CheckOptions&,
                                             const DeviceCheckSizes&) {
  backend::require_cuda_device(device);
  return {};
}

}  // namespace fairway::verify
