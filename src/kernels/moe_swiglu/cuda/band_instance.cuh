// One instance of the band kernel and its facts.
#pragma once

#include "kernels/moe_swiglu/cuda/band_kernel.cuh"
#include "kernels/moe_swiglu/cuda/band_kernels.cuh"

namespace fairway::kernels::cuda {

template <class Path>
BandKernel band_instance() {
  return {band_kernel<Path>,
          Path::kTokens,
          Path::kMinCtas,
          static_cast<int>(sizeof(BandShared<Path>)),
          PathLoader<Path>::kStageTokenBytes,
          !Path::kStreamsTokens};
}

}  // namespace fairway::kernels::cuda
