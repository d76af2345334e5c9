// The shape of the work on bands of 128 outputs, and the order of their inputs.
#pragma once

#include <cuda_runtime.h>

namespace fairway::kernels::cuda {

constexpr int kBand = 128;              // outputs of an item; also the Hadamard block
constexpr int kBandTiles = kBand / 16;  // tiles side by side in a band, and tile rows of a block
constexpr int kComputeWarps = 8;
constexpr int kComputeThreads = 32 * kComputeWarps;
constexpr int kBandThreads = kComputeThreads + 32;  // and one warp that loads
constexpr int kInnerStride = kBand + 4;  // floats between the rows of sums; keeps a warp's stores in separate banks

// Coded weights of kBand x kBand of a matrix: a block of a band.
constexpr int coded_block_bytes(int bits) {
  return kBand * kBand / 8 * bits;
}

// In fragment order, the elements 2q, 2q + 1, 2q + 8, 2q + 9 of two consecutive tile rows are neighbours, so that a
// lane finds its part of the token operand in 16 bytes (halves) or 8 bytes (int8 digits).
__device__ __forceinline__ int fragment_order(int k) {
  const int in_group = k & 31, row = in_group & 15;
  return (k & ~31) + (row & 7) / 2 * 8 + (in_group >> 4) * 4 + (row >> 3) * 2 + (row & 1);
}

}  // namespace fairway::kernels::cuda
