// The launches of the stream kernel, as the dispatcher of the expert layer sees them.
#pragma once

#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"

namespace fairway::kernels::cuda {

// Scratch beside the arrival counters, for calls of up to `tokens` tokens.
std::size_t stream_scratch_bytes(const MoeLayer& layer, int tokens);

// wide: one CTA of 16 computing warps on an SM, else three of 8. arrivals: two counters that are zero between calls.
cudaError_t run_stream(const MoeLayer& layer, const MoeCall& call, bool wide, unsigned* arrivals, void* scratch,
                       cudaStream_t stream);

}  // namespace fairway::kernels::cuda
