// What a dense MLP does between its matrices.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace fairway::kernels::cuda {

// out[i] = silu(gate[i]) * up[i], silu(v) = v / (1 + e^-v), rounded to the nearest half; what no finite half is near
// becomes the largest one of its sign, NaN stays NaN. count: elements, a multiple of 4 from 4 on; all arrays 16-byte
// aligned. Error(kUsage) for other counts.
void swiglu(const float* gate, const float* up, long long count, __half* out, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
