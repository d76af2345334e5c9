// The launch of the single kernel.
#pragma once

#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"

namespace fairway::kernels::cuda {

// Whether the kernel can compute calls of one token of the layer, on the current device.
bool single_fits(const MoeLayer& layer);

std::size_t single_scratch_bytes(const MoeLayer& layer);

// A call of one token; single_fits(layer).
cudaError_t run_single(const MoeLayer& layer, const MoeCall& call, void* scratch, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
