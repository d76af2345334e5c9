// The instances of the attention kernel for a cache in E4M3.
#include "kernels/common/cuda/attend_kernel.cuh"

namespace fairway::kernels::cuda {

AttendKernel attend_kernel_e4m3(int queries, int value_dim) {
  return choose_attend_instance<CacheType::kE4m3>(queries, value_dim);
}

AttendKernel attend_kernel_e4m3_small(int queries) {
  return choose_small_attend_instance<CacheType::kE4m3>(queries);
}

}  // namespace fairway::kernels::cuda
