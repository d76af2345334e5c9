// The refusal of GPUs that are too old or that this program has no machine code for.
#include <fmt/format.h>

#include "backend/cuda/device.h"
#include "fairway/error.h"
#include "kernels/common/cuda/gpu_features.h"

namespace fairway::kernels::cuda {

void require_gpu(std::string_view gpu, int compute_major, int compute_minor, bool has_code) {
  const std::string who =
      fmt::format("CUDA code does not run on {}, compute capability {}.{}", gpu, compute_major, compute_minor);
  if (compute_major < 8) {
    throw Error(ErrorKind::kUnsupported, who + ": it needs 8.0 or later. Run on the CPU");
  }
  if (has_code) return;
  throw Error(
      ErrorKind::kUnsupported,
      fmt::format("{0}: this program was compiled for {1} only. Build it with -DFAIRWAY_CUDA_ARCHITECTURES={2}{3}"
                  "-real, or run on the CPU",
                  who, backend::cuda_compiled_architectures(), compute_major, compute_minor));
}

std::string gpu_refusal(int device) {
  try {
    require_gpu(device);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace fairway::kernels::cuda
