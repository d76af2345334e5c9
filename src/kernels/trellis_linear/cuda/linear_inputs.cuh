// The launch that transforms the inputs of a linear call, for the paths that do not do it themselves: one warp takes a
// block of 128 inputs of a row; with a norm in front, a CTA takes a row. How a block is stored is the path's.
#pragma once

#include <algorithm>

#include "kernels/common/cuda/launch.cuh"
#include "kernels/trellis_band/cuda/transform.cuh"
#include "kernels/trellis_linear/cuda/linear_args.cuh"
#include "kernels/trellis_linear/cuda/linear_norm.cuh"

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

constexpr int kMostNormWarps = 16;

// The same with LinearCall::norm in front. Shared memory: the blocks of a row, then kMostNormWarps floats.
template <class Store>
__device__ __forceinline__ void norm_inputs(const LinearArgs& a, const Store& store) {
  const LinearNorm& norm = a.call.norm;
  const int lane = static_cast<int>(threadIdx.x & 31), warp = static_cast<int>(threadIdx.x >> 5);
  const int blocks = a.call.in / kBand, warps = static_cast<int>(blockDim.x >> 5);
  float4* const held = dynamic_shared<float4>();  // of every lane, what it reads again itself
  float* const partial = reinterpret_cast<float*>(held + blocks * 32);
  wait_for_previous_kernel();
  let_next_kernel_start();
  for (int row = static_cast<int>(blockIdx.x); row < a.call.rows; row += static_cast<int>(gridDim.x)) {
    float squares = 0;
#pragma unroll 1
    for (int block = warp; block < blocks; block += warps) {
      const float4 v = load_norm_sum(norm, row, block * kBand + 4 * lane);
      store_norm_sum(norm, row, block * kBand + 4 * lane, v);
      held[block * 32 + lane] = v;
      squares = add_squares(squares, v);
    }
    const float factor = norm_factor(norm, block_sum(squares, partial));
#pragma unroll 1
    for (int block = warp; block < blocks; block += warps) {
      const int k = block * kBand + 4 * lane;
      for (int input = 0, output = 0; input < a.inputs; ++input, ++output) {
        while (a.input_of[output] != input) ++output;
        float v[4];
        scale_normed(norm, held[block * 32 + lane], factor, k, v);
        scale_by(v, a.call.outputs[output].matrix.suh + k);
        hadamard128(v);
        store(input, row, block * kBand, v);
      }
    }
    __syncthreads();
  }
}

// kernel: as transform_inputs(), or norm_inputs() if the call has a norm.
inline cudaError_t launch_inputs(void (*kernel)(LinearArgs), const LinearArgs& args, cudaStream_t stream) {
  const int blocks = args.call.in / kBand;
  if (args.call.norm.x != nullptr) {
    const int warps = std::min(blocks, kMostNormWarps);
    const int bytes = static_cast<int>(sizeof(float)) * (args.call.in + kMostNormWarps);
    const int grid = std::min(args.call.rows, 8 * sm_count());
    return launch(kernel, {dim3(static_cast<unsigned>(grid)), 32 * warps, bytes}, stream, args);
  }
  const long long units = static_cast<long long>(args.call.rows) * (args.call.in / kBand);
  const long long grid = std::min<long long>((units + kTransformWarps - 1) / kTransformWarps, 8LL * sm_count());
  return launch(kernel, {dim3(static_cast<unsigned>(grid)), kTransformThreads}, stream, args);
}

}  // namespace fairway::kernels::cuda
