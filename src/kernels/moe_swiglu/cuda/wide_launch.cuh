// The launches of the wide path, as the dispatcher of the expert layer sees them.
#pragma once

#include "kernels/moe_swiglu/cuda/wide_args.cuh"

namespace fairway::kernels::cuda {

// Places that the slots of a call take when experts begin at multiples of eight, at most.
std::size_t wide_places(const MoeLayer& layer, int tokens);

// Fills WideArgs::rows. places: [slots], see GroupOutputs.
cudaError_t launch_wide_inputs(const WideArgs& args, const int* places, cudaStream_t stream);

// One phase. segments: an upper bound. cudaErrorInvalidValue if no two stages fit into shared memory.
cudaError_t launch_wide(WideArgs args, long long segments, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
