// Which GPUs the kernels of coded matrices run on. They use instructions that no other compute capability than 9.0 has.
#pragma once

#include <string_view>

namespace fairway::kernels::cuda {

// Error(kUnsupported) that names the GPU and its compute capability, unless that is 9.0.
void require_hopper(std::string_view gpu, int compute_major, int compute_minor);

// The same of a CUDA device; throws as backend::require_cuda_device() does.
void require_hopper(int device);

}  // namespace fairway::kernels::cuda
