// Failing CUDA calls as fairway::Error. For files under cuda/ folders only, as it needs the toolkit's headers.
#pragma once

#include <cuda_runtime_api.h>

#include <string_view>

namespace fairway::backend {

// Throws unless status is cudaSuccess: the call, CUDA's text and name of the error, and what can be done. `call` names
// the function and what it was called for. The error is taken from CUDA, so that the next check does not see it again.
// Errors of kernels that run meanwhile show up in whatever call comes next; they leave the process without a usable
// device, which the message says.
void check_cuda(cudaError_t status, std::string_view call);

// After a kernel launch: throws if it could not be launched. Does not wait for the kernel.
void check_cuda_launch(std::string_view kernel);

}  // namespace fairway::backend
