// The integer instances of the band kernel.
#include "kernels/moe_swiglu/cuda/band_instance.cuh"

namespace fairway::kernels::cuda {

BandKernel int_band_kernel(int tokens) {
  return tokens == 4 ? band_instance<IntPath<1>>() : band_instance<IntPath<2>>();
}

}  // namespace fairway::kernels::cuda
