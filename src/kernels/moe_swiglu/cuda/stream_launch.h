// The launches of the stream kernel, as the dispatcher of the expert layer sees them.
#pragma once

#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.h"

namespace fairway::kernels::cuda {

// Scratch beside the arrival counters, for calls of up to `tokens` tokens.
std::size_t stream_scratch_bytes(const MoeLayer& layer, int tokens);

// ctas: of an SM, 1 or 2. arrivals: two counters that are zero between calls.
cudaError_t run_stream(const MoeLayer& layer, const MoeCall& call, int ctas, unsigned* arrivals, void* scratch,
                       cudaStream_t stream);

}  // namespace fairway::kernels::cuda
