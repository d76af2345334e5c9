// Several query heads of one key/value head meet positions that are in shared memory, with a running maximum and sum
// (flash attention), without tensor instructions. Half a warp takes a position for all heads.
#pragma once

#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/lanes_attend.cuh"

namespace fairway::kernels::cuda {

template <CacheType kType, int kHeads>
class HeadsAttend {
  using Piece = CachePiece<kType>;
  static constexpr int kLanes = 16, kGroups = 32 / kLanes, kBatch = 2;

 public:
  static constexpr int kDim = kLanes * kCachePiece;  // of keys and of values
  static constexpr int kPositions = kGroups * kBatch;
  static constexpr int kValueBytes = kLanes * Piece::kBytes;  // a value is behind its key
  static constexpr int kRowBytes = 2 * kValueBytes;

  // query: [kHeads][kDim] in shared memory, times the scale of scores in units of log2.
  __device__ __forceinline__ explicit HeadsAttend(const float* query) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      most[h] = kNoScore, total[h] = 0;
      load8(query + h * kDim + kCachePiece * lane(), query_[h]);
#pragma unroll
      for (int i = 0; i < kCachePiece; ++i) sum[h][i] = 0;
    }
  }

  // `there` positions, at most kPositions, behind each other.
  __device__ __forceinline__ void add(const unsigned char* rows, int there) {
    float score[kBatch][kHeads];
    Piece value[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const unsigned char* const row = rows + place(b) * kRowBytes + lane() * Piece::kBytes;
      Piece piece;
      piece.load(row, place(b) < there);
      value[b].load(row + kValueBytes, place(b) < there);
      float key[kCachePiece];
      piece.unpack(key);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        score[b][h] = 0;
#pragma unroll
        for (int i = 0; i < kCachePiece; ++i) score[b][h] = fmaf(key[i], query_[h][i], score[b][h]);
      }
    }
#pragma unroll
    for (int d = kLanes / 2; d > 0; d /= 2) {
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
#pragma unroll
        for (int h = 0; h < kHeads; ++h) score[b][h] += __shfl_xor_sync(0xFFFFFFFFu, score[b][h], d);
      }
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float reference = most[h];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        if (place(b) >= there) score[b][h] = kNoScore;
        reference = fmaxf(reference, score[b][h]);
      }
      scale_to(h, reference);
      if (reference == kNoScore) reference = 0;  // nothing seen yet: all factors are 2^-inf
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        score[b][h] = exp2f(score[b][h] - reference);
        total[h] += score[b][h];
      }
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      float v[kCachePiece];
      value[b].unpack(v);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
#pragma unroll
        for (int i = 0; i < kCachePiece; ++i) sum[h][i] = fmaf(score[b][h], v[i], sum[h][i]);
      }
    }
  }

  // Both halves of the warp get the sums over both.
  __device__ __forceinline__ void join() {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      scale_to(h, fmaxf(most[h], __shfl_xor_sync(0xFFFFFFFFu, most[h], kLanes)));
      total[h] += __shfl_xor_sync(0xFFFFFFFFu, total[h], kLanes);
#pragma unroll
      for (int i = 0; i < kCachePiece; ++i) sum[h][i] += __shfl_xor_sync(0xFFFFFFFFu, sum[h][i], kLanes);
    }
  }

  // Of each head: the largest score, the sum of 2^(score - most), and of these factors times values, of the elements
  // kCachePiece * lane() ...
  float most[kHeads], total[kHeads];
  float sum[kHeads][kCachePiece];

  __device__ static __forceinline__ int lane() {
    return static_cast<int>(threadIdx.x) % kLanes;
  }
  __device__ static __forceinline__ int group() {
    return static_cast<int>(threadIdx.x) % 32 / kLanes;
  }

 private:
  __device__ static __forceinline__ int place(int b) {
    return kGroups * b + group();
  }

  __device__ static __forceinline__ void load8(const float* from, float (&v)[kCachePiece]) {
    const float4 low = reinterpret_cast<const float4*>(from)[0], high = reinterpret_cast<const float4*>(from)[1];
    v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
    v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
  }

  // Sums relative to a largest score that is not below the one so far.
  __device__ __forceinline__ void scale_to(int h, float reference) {
    const float factor = exp2f(most[h] - (reference == kNoScore ? 0.0f : reference));
    most[h] = reference;
    total[h] *= factor;
#pragma unroll
    for (int i = 0; i < kCachePiece; ++i) sum[h][i] *= factor;
  }

  float query_[kHeads][kCachePiece];
};

}  // namespace fairway::kernels::cuda
