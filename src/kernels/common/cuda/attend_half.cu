// The instances of the attention kernel for a cache of halves.
#include "kernels/common/cuda/attend_kernel.cuh"

namespace fairway::kernels::cuda {

AttendKernel attend_kernel_half(int queries, int value_dim) {
  return choose_attend_instance<CacheType::kHalf>(queries, value_dim);
}

AttendKernel attend_kernel_half_small(int queries) {
  return choose_small_attend_instance<CacheType::kHalf>(queries);
}

}  // namespace fairway::kernels::cuda
