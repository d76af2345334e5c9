// dense_linear for many rows and 16-bit weights, on tensor instructions that read their operands from memory.
//
// W is the first operand: 16 outputs by 8 rows of x. A lane reads eight neighbouring elements of a row of W or x, and
// two instructions use them; the order of k within a block of 32 is the same for both, which is all that it must be.
#pragma once

#include "kernels/common/cuda/chunk.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/dense_linear/cuda/dense_linear_cuda.cuh"

namespace fairway::kernels::cuda {

constexpr int kManyWarps = 4;
constexpr int kManyDepth = 32;  // of k, that one load of every operand covers

// Two bfloats as two halves, saturated.
__device__ __forceinline__ unsigned halves_of_bfloats(unsigned pair) {
  const __half low = saturated_half(__uint_as_float(pair << 16));
  const __half high = saturated_half(__uint_as_float(pair & 0xFFFF0000u));
  return __half_as_ushort(low) | static_cast<unsigned>(__half_as_ushort(high)) << 16;
}

// A warp has 16 kOutTiles outputs and 8 kRowTiles rows; kWarpsOut of the CTA's warps stand side by side along the
// outputs, the others along the rows. Aligned calls only.
template <DenseType kType, int kOutTiles, int kRowTiles, int kWarpsOut>
__global__ void __launch_bounds__(32 * kManyWarps) dense_many_kernel(const __grid_constant__ DenseLinearCall a) {
  using Chunk = DenseChunk<DenseType::kF16, true>;  // of any 16-bit type, as words
  const int lane = threadIdx.x & 31, group = lane / 4, quad = lane % 4, warp = static_cast<int>(threadIdx.x >> 5);
  const int first_out = (static_cast<int>(blockIdx.x) * kWarpsOut + warp % kWarpsOut) * 16 * kOutTiles;
  const int first_row = (static_cast<int>(blockIdx.y) * (kManyWarps / kWarpsOut) + warp / kWarpsOut) * 8 * kRowTiles;
  struct Block {
    Chunk w[kOutTiles][2], x[kRowTiles];
  };
  const auto load_w = [&](int begin, Block& block) {
    const int k = begin + quad * kChunk;
#pragma unroll
    for (int t = 0; t < 2 * kOutTiles; ++t) {
      const int out = min(first_out + 8 * t + group, a.out - 1);
      block.w[t / 2][t % 2].load(a.weight, static_cast<long long>(out) * a.in + k, a.in - k);
    }
  };
  const auto load_x = [&](int begin, Block& block) {
    const int k = begin + quad * kChunk;
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t) {
      block.x[t].load(a.x, min(first_row + 8 * t + group, a.rows - 1) * a.ldx + k, a.in - k);
    }
  };
  float sums[kOutTiles][kRowTiles][4] = {};
  const auto multiply = [&](Block& block) {
#pragma unroll
    for (int m = 0; m < kOutTiles; ++m) {
#pragma unroll
      for (Chunk& chunk : block.w[m]) {
        if constexpr (kType == DenseType::kBf16) {
#pragma unroll
          for (unsigned& word : chunk.words) word = halves_of_bfloats(word);
        }
      }
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
        for (int step = 0; step < 4; step += 2) {
          const auto& upper = block.w[m][0].words;
          const auto& lower = block.w[m][1].words;
          mma_half(sums[m][n], upper[step], lower[step], upper[step + 1], lower[step + 1], block.x[n].words[step],
                   block.x[n].words[step + 1]);
        }
      }
    }
  };
  Block here, next;
  load_w(0, here);
  wait_for_previous_kernel();
  let_next_kernel_start();
  load_x(0, here);
  for (int begin = 0; begin < a.in; begin += 2 * kManyDepth) {  // beyond a.in everything is zero
    load_w(begin + kManyDepth, next);
    load_x(begin + kManyDepth, next);
    multiply(here);
    load_w(begin + 2 * kManyDepth, here);
    load_x(begin + 2 * kManyDepth, here);
    multiply(next);
  }
#pragma unroll
  for (int m = 0; m < kOutTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int out = first_out + 16 * m + 8 * (i / 2) + group, row = first_row + 8 * n + 2 * quad + i % 2;
        if (out >= a.out || row >= a.rows) continue;
        float* const y = a.y + row * a.ldy + out;
        const float value = sums[m][n][i] + (a.bias != nullptr ? a.bias[out] : 0.0f);
        *y = a.add ? *y + value : value;
      }
    }
  }
}

}  // namespace fairway::kernels::cuda
