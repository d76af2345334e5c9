// The half-precision instances of the band kernel for many tokens of an expert.
#include "kernels/moe_swiglu/cuda/band_instance.cuh"

namespace fairway::kernels::cuda {

BandKernel half_band_kernel_many(int tokens) {
  return tokens == 32 ? band_instance<HalfPath<4>>() : band_instance<HalfPath<8>>();
}

}  // namespace fairway::kernels::cuda
