// The kernel for one row, as the launcher sees it.
#include "kernels/trellis_linear/cuda/linear_kernels.cuh"
#include "kernels/trellis_linear/cuda/linear_one_kernel.cuh"

namespace fairway::kernels::cuda {

LinearKernel linear_one_row_kernel() {
  return {linear_one_kernel<false>,
          1,
          2,
          static_cast<int>(sizeof(LinearOneShared)),
          0,
          {1, kOneBlockBytes, 0},
          kMostNormedBlocks,
          true,
          linear_one_kernel<true>};
}

}  // namespace fairway::kernels::cuda
