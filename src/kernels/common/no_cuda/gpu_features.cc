// Without a CUDA toolkit there is no device to ask.
#include "kernels/common/cuda/gpu_features.h"

#include "backend/cuda/device.h"

namespace fairway::kernels::cuda {

GpuFeatures gpu_features_of(int device) {
  backend::require_cuda_device(device);
  return kHopperFeatures;
}
std::string gpu_refusal(int) {
  return backend::cuda_absence_reason();
}

}  // namespace fairway::kernels::cuda
