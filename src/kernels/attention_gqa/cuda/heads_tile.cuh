// The query heads of a key/value head meet a tile of 16 positions, by a warp, on tensor instructions. A query is the
// sum of two halves, in two rows of the operand, so that its scores are as those of floats; probabilities are halves.
#pragma once

#include <cuda_fp16.h>

#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/lanes_attend.cuh"

namespace fairway::kernels::cuda {

class HeadsTile {
 public:
  static constexpr int kHeads = 4, kDim = 128, kPositions = 16;
  static constexpr int kRowBytes = 4 * kDim + 16;  // halves: key, value, and a pad that separates the banks
  static constexpr int kBytes = kPositions * kRowBytes;

  static constexpr int kQueryStride = kDim + 8;  // halves, from row to row: other banks

  // Element i of head h, times the scale of scores in units of log2, to query: [2 * kHeads][kQueryStride].
  __device__ static __forceinline__ void store_query(__half* query, int h, int i, float v) {
    const __half upper = __float2half_rn(v);
    query[h * kQueryStride + i] = upper;
    query[(kHeads + h) * kQueryStride + i] = __float2half_rn(v - __half2float(upper));
  }

  __device__ __forceinline__ HeadsTile() : lane_(static_cast<int>(threadIdx.x) % 32) {
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) sum_[n][0] = sum_[n][1] = sum_[n][2] = sum_[n][3] = 0;
  }

  // query: of store_query(). tile: 16 rows in shared memory, of which `there` are looked at; what is in the others is
  // finite.
  __device__ __forceinline__ void add(const __half* query, const unsigned char* tile, int there) {
    float score[2][4] = {};
    const unsigned char* const keys = tile + lane_ % 8 * kRowBytes + lane_ / 8 * 16;
#pragma unroll
    for (int step = 0; step < kSteps; step += 2) {
      unsigned a[4];
      load_matrices_x4(a, query + lane_ % 8 * kQueryStride + step * 16 + lane_ / 8 * 8);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        unsigned b[4];
        load_matrices_x4(b, keys + 8 * n * kRowBytes + step * 32);
        mma_half(score[n], a[0], 0, a[1], 0, b[0], b[1]);
        mma_half(score[n], a[2], 0, a[3], 0, b[2], b[3]);
      }
    }
    float reference = most;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& s = score[n][i];
        s += __shfl_xor_sync(0xFFFFFFFFu, s, 16);
        if (8 * n + 2 * (lane_ % 4) + i >= there) s = kNoScore;
        reference = fmaxf(reference, s);
      }
    }
    reference = fmaxf(reference, __shfl_xor_sync(0xFFFFFFFFu, reference, 1));
    reference = fmaxf(reference, __shfl_xor_sync(0xFFFFFFFFu, reference, 2));
    const float factor = power_of_two(most - reference);
    most = reference;
    total *= factor;
    unsigned p[2];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const __half2 pair =
          __floats2half2_rn(power_of_two(score[n][0] - reference), power_of_two(score[n][1] - reference));
      const float2 rounded = __half22float2(pair);
      total += rounded.x + rounded.y;
      p[n] = *reinterpret_cast<const unsigned*>(&pair);
    }
    const unsigned char* const values = tile + (lane_ / 8 % 2 * 8 + lane_ % 8) * kRowBytes + 2 * kDim + lane_ / 16 * 16;
#pragma unroll
    for (int n = 0; n < kBlocks; n += 2) {
      unsigned b[4];
      load_matrices_transposed_x4(b, values + n * 16);
      sum_[n][0] *= factor, sum_[n][1] *= factor, sum_[n + 1][0] *= factor, sum_[n + 1][1] *= factor;
      mma_half(sum_[n], p[0], 0, p[1], 0, b[0], b[1]);
      mma_half(sum_[n + 1], p[0], 0, p[1], 0, b[2], b[3]);
    }
  }

  // The sums to [kHeads][kDim], and of each head the largest score and the sum of 2^(score - most).
  __device__ __forceinline__ void leave(float* sums, float2* statistics) {
    total += __shfl_xor_sync(0xFFFFFFFFu, total, 1);
    total += __shfl_xor_sync(0xFFFFFFFFu, total, 2);
    if (lane_ >= 16) return;
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
      *reinterpret_cast<float2*>(sums + head() * kDim + 8 * n + 2 * (lane_ % 4)) = make_float2(sum_[n][0], sum_[n][1]);
    }
    if (lane_ % 4 == 0) statistics[head()] = make_float2(most, total);
  }

 private:
  static constexpr int kSteps = kDim / 16, kBlocks = kDim / 8;

  __device__ __forceinline__ int head() const {
    return lane_ / 4 % kHeads;
  }

  const int lane_;
  float most = kNoScore, total = 0;
  float sum_[kBlocks][4];
};

}  // namespace fairway::kernels::cuda
