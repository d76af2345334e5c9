// The half-precision instances of the kernel for many rows.
#include "kernels/trellis_linear/cuda/linear_instance.cuh"

namespace fairway::kernels::cuda {

LinearKernel linear_streamed_kernel(int rows) {
  return rows == 32 ? linear_instance<LinearStreamedPath<4>>() : linear_instance<LinearStreamedPath<8>>();
}

}  // namespace fairway::kernels::cuda
