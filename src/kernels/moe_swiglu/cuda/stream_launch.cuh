// The launches of the stream kernel, as the dispatcher of the expert layer sees them.
#pragma once

#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"

namespace fairway::kernels::cuda {

// Scratch for calls of up to `tokens` tokens.
std::size_t stream_scratch_bytes(const MoeLayer& layer, int tokens);

// wide: one CTA of 16 computing warps on an SM, else up to three of 8.

// Tokens of one launch, at most; 0 if the layer leaves too little shared memory for it to be fast.
int stream_tokens(const MoeLayer& layer, bool wide);

// Whether a call makes its inputs before it knows the routes.
bool stream_starts_early(const MoeLayer& layer, int tokens);

// How much of a layer a CTA of the kernel for one token has, at most.
struct OneTokenShare {
  int units = 0;    // of 128 x 128 weights of each matrix; 0: the kernel does not serve
  int columns = 0;  // of tiles that a warp has of a unit
  int reused = 0;   // units of gate and up whose memory down needs
};
OneTokenShare one_token_share(const MoeLayer& layer);

// Whether such a call can wait for the row in front of the norm.
bool stream_polls_row(const MoeLayer& layer, int tokens, const MoeNorm& norm);

// Whether a stage of the layer's widest matrix fits into shared memory beside its inputs, and tables have room for its
// experts.
bool stream_fits(const MoeLayer& layer, bool wide);

// cudaErrorInvalidValue if it does not fit.
cudaError_t run_stream(const MoeLayer& layer, const MoeCall& call, bool wide, void* scratch, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
