// The half-precision instance of the kernel for more rows.
#include "kernels/trellis_linear/cuda/linear_instance.cuh"

namespace fairway::kernels::cuda {

LinearKernel linear_streamed_kernel() {
  return linear_instance<LinearStreamedPath<4>>();
}

}  // namespace fairway::kernels::cuda
