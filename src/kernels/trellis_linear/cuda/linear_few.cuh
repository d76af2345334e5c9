// Linear layers of few rows and few weights: a CTA for each share of a band, all at the same time. Needs clusters.
#pragma once

#include "kernels/trellis_linear/cuda/linear_args.cuh"

namespace fairway::kernels::cuda {

// Whether the call is small enough for the current device. integer: up to 4 rows as 15-bit integers, if all matrices
// use the codebook mul1; else up to 16 as halves.
bool few_linear_fits(const LinearCall& call, bool integer);
// Whether it is then faster so than by other paths, as measured on an H200 inside chains of layers.
bool few_linear_pays(const LinearCall& call, bool integer);
// args: the call and the numbers of its inputs. It fits.
cudaError_t run_few_linear(LinearArgs& args, bool integer, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
