// The half-precision instances of the band kernel for few tokens of an expert.
#include "kernels/moe_swiglu/cuda/band_instance.cuh"

namespace fairway::kernels::cuda {

BandKernel half_band_kernel(int tokens) {
  return tokens == 8 ? band_instance<HalfPath<1>>() : band_instance<HalfPath<2>>();
}

}  // namespace fairway::kernels::cuda
