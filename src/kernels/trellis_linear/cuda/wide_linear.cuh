// The launches of the wide path, as the dispatcher of the linear layer sees them.
#pragma once

#include "kernels/trellis_linear/cuda/linear_args.cuh"

namespace fairway::kernels::cuda {

// args: call, input_of, inputs and rows.
cudaError_t run_wide_linear(const LinearArgs& args, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
