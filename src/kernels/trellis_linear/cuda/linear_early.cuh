// Linear layers of few rows and few weights: a CTA for each share of a band, all at the same time, each of which
// decodes its weights before the kernel in front has ended.
#pragma once

#include "kernels/trellis_linear/cuda/linear_args.cuh"

namespace fairway::kernels::cuda {

// Whether there are few enough weights for the current device. rows: the path's, 4 or 8; with more it does not.
bool early_linear_fits(const LinearCall& call, int rows);
// args: the call and the numbers of its inputs. It fits.
cudaError_t run_early_linear(LinearArgs& args, int rows, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
