// The half-precision instance of the band kernel for more tokens of an expert.
#include "kernels/moe_swiglu/cuda/band_instance.cuh"

namespace fairway::kernels::cuda {

BandKernel half_band_kernel_many() {
  return band_instance<HalfPath<4>>();
}

}  // namespace fairway::kernels::cuda
