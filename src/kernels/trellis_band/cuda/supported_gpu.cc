// The refusal of GPUs that the kernels of coded matrices have no machine code for.
#include "kernels/trellis_band/cuda/supported_gpu.h"

#include <fmt/format.h>

#include "backend/cuda/device.h"
#include "fairway/error.h"

namespace fairway::kernels::cuda {

void require_hopper(std::string_view gpu, int compute_major, int compute_minor) {
  if (compute_major == 9 && compute_minor == 0) return;
  throw Error(
      ErrorKind::kUnsupported,
      fmt::format(
          "code for coded matrices on CUDA does not run on {}, compute capability {}.{}: it needs 9.0, which H100 "
          "and H200 have",
          gpu, compute_major, compute_minor));
}

void require_hopper(int device) {
  const backend::CudaDeviceInfo& info = backend::cuda_device_info(device);
  require_hopper(info.name, info.compute_major, info.compute_minor);
}

}  // namespace fairway::kernels::cuda
