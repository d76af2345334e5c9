// Linear layers of few rows and few weights: a CTA for each share of a band, all at the same time.
#pragma once

#include "kernels/trellis_linear/cuda/linear_args.cuh"

namespace fairway::kernels::cuda {

// Whether the call is small enough for the current device, and all of its matrices use the codebook mul1.
bool few_linear_fits(const LinearCall& call);
// args: the call and the numbers of its inputs. It fits.
cudaError_t run_few_linear(LinearArgs& args, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
