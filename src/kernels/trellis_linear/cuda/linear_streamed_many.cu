// The half-precision instance of the kernel for the most rows.
#include "kernels/trellis_linear/cuda/linear_instance.cuh"

namespace fairway::kernels::cuda {

LinearKernel linear_streamed_kernel_many(int) {
  return linear_instance<LinearStreamedPath<16>>();
}

}  // namespace fairway::kernels::cuda
