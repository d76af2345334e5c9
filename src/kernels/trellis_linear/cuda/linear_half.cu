// The half-precision instances of the kernel that transform their inputs themselves.
#include "kernels/trellis_linear/cuda/linear_instance.cuh"

namespace fairway::kernels::cuda {

LinearKernel linear_half_kernel(int rows) {
  return rows == 8 ? linear_instance<LinearHalfPath<1>>() : linear_instance<LinearHalfPath<2>>();
}

}  // namespace fairway::kernels::cuda
