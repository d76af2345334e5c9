// The launch that transforms the inputs of a linear call, for the paths that do not do it themselves: one warp takes a
// block of 128 inputs of a row. How a block is stored is the path's.
#pragma once

#include <algorithm>

#include "kernels/common/cuda/launch.cuh"
#include "kernels/trellis_band/cuda/transform.cuh"
#include "kernels/trellis_linear/cuda/linear_args.cuh"

namespace fairway::kernels::cuda {

constexpr int kTransformThreads = 256;
constexpr int kTransformWarps = kTransformThreads / 32;

// Every block of every different input. store(input, row, k, v): elements 4t..4t+3 of lane t of the block of `row` that
// begins at column k.
template <class Store>
__device__ __forceinline__ void transform_inputs(const LinearArgs& a, const Store& store) {
  const int lane = static_cast<int>(threadIdx.x & 31), blocks = a.call.in / kBand, units = a.call.rows * blocks;
  wait_for_previous_kernel();
  let_next_kernel_start();
  for (int unit = static_cast<int>(blockIdx.x) * kTransformWarps + static_cast<int>(threadIdx.x >> 5); unit < units;
       unit += static_cast<int>(gridDim.x) * kTransformWarps) {
    const int row = unit / blocks, k = unit % blocks * kBand;
    for (int input = 0, output = 0; input < a.inputs; ++input, ++output) {
      while (a.input_of[output] != input) ++output;
      float v[4];
      transform_input(a.call.x + row * a.call.ldx + k + 4 * lane, a.call.outputs[output].matrix.suh + k + 4 * lane, v);
      store(input, row, k, v);
    }
  }
}

inline cudaError_t launch_inputs(void (*kernel)(LinearArgs), const LinearArgs& args, cudaStream_t stream) {
  const long long units = static_cast<long long>(args.call.rows) * (args.call.in / kBand);
  const long long grid = std::min<long long>((units + kTransformWarps - 1) / kTransformWarps, 8LL * sm_count());
  return launch(kernel, {dim3(static_cast<unsigned>(grid)), kTransformThreads}, stream, args);
}

}  // namespace fairway::kernels::cuda
