// The launches of the stream kernel, as the dispatcher of the expert layer sees them.
#pragma once

#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"

namespace fairway::kernels::cuda {

// Scratch for calls of up to `tokens` tokens.
std::size_t stream_scratch_bytes(const MoeLayer& layer, int tokens);

// Tokens of one launch of the wide shape, at most; 0 if the layer leaves too little shared memory for it to be fast.
int stream_tokens(const MoeLayer& layer);

// wide: one CTA of 16 computing warps on an SM, else three of 8. cudaErrorInvalidValue if a stage of the layer's widest
// matrix does not fit into shared memory beside its inputs.
cudaError_t run_stream(const MoeLayer& layer, const MoeCall& call, bool wide, void* scratch, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
