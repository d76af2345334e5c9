// Recording all layers as a graph.
#pragma once

#include "cuda/layers.cuh"

namespace fairway::kernels::cuda::bench {

// One call of every layer, to be replayed; the caller destroys it. An error leaves the stream as it was.
cudaGraphExec_t record(const Layers& layers, int tokens, MoePath path, cudaStream_t stream, const MoeProbe& probe);

}  // namespace fairway::kernels::cuda::bench
