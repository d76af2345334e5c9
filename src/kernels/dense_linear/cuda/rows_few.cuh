// dense_linear for up to eight rows: a warp reads rows of W once, in chunks of eight elements a lane, and multiplies
// them with every row of x.
#pragma once

#include "kernels/common/cuda/chunk.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/reduce.cuh"
#include "kernels/dense_linear/cuda/dense_linear_cuda.cuh"

namespace fairway::kernels::cuda {

constexpr int kFewWarps = 4;

// Outputs of a warp: with more rows, more outputs share what is read and widened of x.
template <int kRows>
constexpr int kFewOutputs = kRows <= 2 ? 1 : kRows / 2;

// Rows blockIdx.y * kRows and after. Eight chunks (four, if there are eight rows) of W are on their way to a lane
// before the previous kernel has ended.
template <DenseType kType, bool kAligned, int kRows>
__global__ void __launch_bounds__(32 * kFewWarps) dense_few_kernel(const __grid_constant__ DenseLinearCall a) {
  constexpr int kOutputs = kFewOutputs<kRows>, kSteps = kRows == 8 ? 1 : 8 / kOutputs;
  using Weights = DenseChunk<kType, kAligned>;
  using Inputs = DenseChunk<DenseType::kF16, kAligned>;
  const int lane = threadIdx.x & 31;
  const int first_out = (static_cast<int>(blockIdx.x) * kFewWarps + static_cast<int>(threadIdx.x >> 5)) * kOutputs;
  const int first_row = static_cast<int>(blockIdx.y) * kRows;
  Weights w[kSteps][kOutputs];
  const auto load = [&](int begin) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int col = begin + (32 * s + lane) * kChunk;
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {
        w[s][o].load(a.weight, static_cast<long long>(min(first_out + o, a.out - 1)) * a.in + col, a.in - col);
      }
    }
  };
  load(0);
  wait_for_previous_kernel();
  let_next_kernel_start();
  float sums[kOutputs * kRows] = {};
  for (int begin = 0; begin < a.in; begin += kSteps * 32 * kChunk) {
    if (begin > 0) load(begin);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int col = begin + (32 * s + lane) * kChunk;
      float weights[kOutputs][kChunk];
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) w[s][o].unpack(weights[o]);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        Inputs chunk;
        float x[kChunk];
        chunk.load(a.x, min(first_row + r, a.rows - 1) * a.ldx + col, a.in - col);
        chunk.unpack(x);
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) {
#pragma unroll
          for (int i = 0; i < kChunk; ++i) sums[o * kRows + r] = fmaf(weights[o][i], x[i], sums[o * kRows + r]);
        }
      }
    }
  }
  constexpr int kLanes = 32 / (kOutputs * kRows);  // that get the same sum
  const float sum = spread_sum(sums);
  const int out = first_out + lane / kLanes / kRows, row = first_row + lane / kLanes % kRows;
  if (lane % kLanes != 0 || out >= a.out || row >= a.rows) return;
  float* const y = a.y + row * a.ldy + out;
  const float value = sum + (a.bias != nullptr ? a.bias[out] : 0.0f);
  *y = a.add ? *y + value : value;
}

}  // namespace fairway::kernels::cuda
