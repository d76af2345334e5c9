// Where the time of a stream path goes.
#pragma once

#include "cuda/layers.cuh"

namespace fairway::kernels::cuda::bench {

// Runs all layers on the stream (not the default one), recorded as a graph, with stamps, and prints microseconds: of
// the stages of a CTA, table and input from its start, the others from the end of what comes before, median and largest
// over CTAs and layers; of a launch; and between two.
void print_stages(const Layers& layers, int tokens, MoePath path, cudaStream_t stream, MoeProbe probe = {});

}  // namespace fairway::kernels::cuda::bench
