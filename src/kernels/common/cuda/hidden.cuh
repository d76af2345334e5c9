// Values whose origin the compiler does not see, where it would spend registers on what it knows.
#pragma once

#include <cuda_runtime.h>

namespace fairway::kernels::cuda {

// The value, of which the compiler no longer knows where it comes from: it is kept in a register and neither computed
// again in every turn of a loop, nor computed once for all the places that need it and kept too long. All lanes of a
// warp come here.
__device__ __forceinline__ int hidden(int value) {
  return __shfl_sync(0xFFFFFFFFu, value, static_cast<int>(threadIdx.x & 31));
}
__device__ __forceinline__ int hidden_thread() {
  return hidden(static_cast<int>(threadIdx.x));
}

}  // namespace fairway::kernels::cuda
