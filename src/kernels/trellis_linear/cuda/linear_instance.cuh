// One instance of the kernel and its facts.
#pragma once

#include "kernels/trellis_linear/cuda/linear_kernel.cuh"
#include "kernels/trellis_linear/cuda/linear_kernels.cuh"

namespace fairway::kernels::cuda {

template <class Path>
LinearKernel linear_instance() {
  return {linear_kernel<Path>,
          Path::kRows,
          Path::kMinCtas,
          static_cast<int>(sizeof(LinearShared<Path>)),
          LinearLoader<Path>::kStageTokenBytes,
          Path::kInput,
          Path::kNormBlocks};
}

}  // namespace fairway::kernels::cuda
