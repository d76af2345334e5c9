// A query meets positions that are in shared memory, with a running maximum and sum (flash attention), without tensor
// instructions. Some warps share a query, half a warp takes a position. The code is short: over short contexts it runs
// once.
#pragma once

#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/lanes_attend.cuh"

namespace fairway::kernels::cuda {

// kGroupCount: halves of warps that share a query.
template <CacheType kType, int kGroupCount>
class HeadAttend {
  using Piece = CachePiece<kType>;
  static constexpr int kLanes = 16, kBatch = 2;

 public:
  static constexpr int kGroups = kGroupCount;
  static constexpr int kDim = kLanes * kCachePiece;  // of keys and of values
  static constexpr int kPositions = kGroups * kBatch;
  static constexpr int kValueBytes = kLanes * Piece::kBytes;  // a value is behind its key
  static constexpr int kRowBytes = 2 * kValueBytes;

  // query: [kDim] in shared memory, times the scale of scores in units of log2. part: which of the query's warps.
  __device__ __forceinline__ HeadAttend(const float* query, int part)
      : most(kNoScore),
        total(0),
        lane(static_cast<int>(threadIdx.x) % kLanes),
        group(2 * part + static_cast<int>(threadIdx.x) % 32 / kLanes) {
    const auto* const from = reinterpret_cast<const float4*>(query + kCachePiece * lane);
    const float4 low = from[0], high = from[1];
    query_[0] = low.x, query_[1] = low.y, query_[2] = low.z, query_[3] = low.w;
    query_[4] = high.x, query_[5] = high.y, query_[6] = high.z, query_[7] = high.w;
#pragma unroll
    for (int i = 0; i < kCachePiece; ++i) sum[i] = 0;
  }

  // `there` positions, of which kPositions at most are looked at, behind each other.
  __device__ __forceinline__ void add(const unsigned char* rows, int there) {
    float score[kBatch];
    Piece value[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int place = kGroups * b + group;
      const unsigned char* const row = rows + place * kRowBytes + lane * Piece::kBytes;
      Piece piece;
      piece.load(row, place < there);
      value[b].load(row + kValueBytes, place < there);
      float key[kCachePiece];
      piece.unpack(key);
      score[b] = 0;
#pragma unroll
      for (int i = 0; i < kCachePiece; ++i) score[b] = fmaf(key[i], query_[i], score[b]);
    }
#pragma unroll
    for (int d = kLanes / 2; d > 0; d /= 2) {
#pragma unroll
      for (int b = 0; b < kBatch; ++b) score[b] += __shfl_xor_sync(0xFFFFFFFFu, score[b], d);
    }
    float reference = most;
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (kGroups * b + group >= there) score[b] = kNoScore;
      reference = fmaxf(reference, score[b]);
    }
    const float before = most;
    most = reference;
    if (reference == kNoScore) reference = 0;  // nothing seen yet: all factors are 2^-inf
    const float factor = exp2f(before - reference);
    total *= factor;
#pragma unroll
    for (int i = 0; i < kCachePiece; ++i) sum[i] *= factor;
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const float p = exp2f(score[b] - reference);
      total += p;
      float v[kCachePiece];
      value[b].unpack(v);
#pragma unroll
      for (int i = 0; i < kCachePiece; ++i) sum[i] = fmaf(p, v[i], sum[i]);
    }
  }

  // Of the group: the largest score, the sum of 2^(score - most), and of these factors times values, of the elements
  // kCachePiece * lane ...
  float most, total;
  float sum[kCachePiece];
  const int lane, group;

 private:
  float query_[kCachePiece];
};

}  // namespace fairway::kernels::cuda
