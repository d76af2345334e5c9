// The half-precision paths: the loop for the width and the codebook of a matrix, and the sums over its warps.
#pragma once

#include "kernels/common/cuda/hidden.cuh"
#include "kernels/trellis_band/cuda/walk_half.cuh"

namespace fairway::kernels::cuda {

template <int kGroupCount>
struct HalfBand {
  static constexpr int kGroups = kGroupCount;
  static constexpr int kTokens = 8 * kGroups;

  template <bool kMul1, class Tokens>
  static __device__ __forceinline__ void walk(RingCursor& ring, int bits, int blocks, const Tokens& tokens,
                                              SumCodebook codebook, float (&acc)[kHalfTiles][kGroups][4]) {
    switch (bits) {
#define FAIRWAY_CASE(bits)                                                \
  case bits:                                                              \
    walk_half<bits, kMul1, kGroups>(ring, blocks, tokens, codebook, acc); \
    break;
      FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
    }
  }

  // inner[token][kInnerStride] = the sums over the next blocks of the ring.
  template <class Tokens>
  static __device__ __forceinline__ void multiply(RingCursor& ring, int bits, int codebook_number, int blocks,
                                                  const Tokens& tokens, float* inner) {
    float acc[kHalfTiles][kGroups][4] = {};
    const auto codebook = static_cast<codec::Codebook>(codebook_number);
    if (codebook == codec::Codebook::kMul1) {
      walk<true>(ring, bits, blocks, tokens, {}, acc);
    } else {
      walk<false>(ring, bits, blocks, tokens, SumCodebook::of(codebook), acc);
    }
    const bool adds = threadIdx.x < kComputeThreads / 2;  // the warps of the first tile rows
    if (!adds) exchange<false>(acc, inner);
    consumer_sync<kComputeThreads>();
    if (adds) exchange<true>(acc, inner);
    consumer_sync<kComputeThreads>();
  }

  template <bool kAdd>
  static __device__ __forceinline__ void exchange(const float (&acc)[kHalfTiles][kGroups][4], float* inner) {
    const int thread = hidden_thread(), warp = thread >> 5, lane = thread & 31;
    float* at = inner + 2 * (lane & 3) * kInnerStride + (warp & 3) * kHalfTiles * 16 + (lane >> 2);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int tile = 0; tile < kHalfTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float* sum = at + (8 * g + (i & 1)) * kInnerStride + 16 * tile + (i >> 1) * 8;
          *sum = kAdd ? *sum + acc[tile][g][i] : acc[tile][g][i];
        }
      }
    }
  }
};

}  // namespace fairway::kernels::cuda
