// The integer instances of the kernel.
#include "kernels/trellis_linear/cuda/linear_instance.cuh"

namespace fairway::kernels::cuda {

LinearKernel linear_int_kernel(int rows) {
  return rows == 4 ? linear_instance<LinearIntPath<1>>() : linear_instance<LinearIntPath<2>>();
}

}  // namespace fairway::kernels::cuda
