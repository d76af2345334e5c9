// One query meets some positions, with a running maximum and sum (flash attention), without tensor instructions: for
// single queries over few positions. A group of lanes takes a position, and keeps sums of its own of the values.
#pragma once

#include <cuda_fp16.h>

#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/pass.cuh"

namespace fairway::kernels::cuda {

constexpr float kNoScore = -__builtin_huge_valf();

constexpr int kCachePiece = 8;  // elements of a cache row that a lane takes at a time

template <CacheType kType>
struct CachePiece {
  static constexpr int kBytes = kCachePiece * cache_type_bytes(kType);
  unsigned words[kBytes / 4];

  // p: 8-byte aligned, of E4M3, or 16-byte aligned, in any memory. Zeros if it is not there.
  __device__ __forceinline__ void load(const unsigned char* p, bool there) {
    if constexpr (kType == CacheType::kHalf) {
      const uint4 v = there ? *reinterpret_cast<const uint4*>(p) : make_uint4(0, 0, 0, 0);
      words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
    } else {
      const uint2 v = there ? *reinterpret_cast<const uint2*>(p) : make_uint2(0, 0);
      words[0] = v.x, words[1] = v.y;
    }
  }
  __device__ __forceinline__ void unpack(float (&v)[kCachePiece]) const {
#pragma unroll
    for (int i = 0; i < kCachePiece / 2; ++i) {
      unsigned pair;
      if constexpr (kType == CacheType::kHalf) {
        pair = words[i];
      } else {
        pair = halves_from_e4m3(i % 2 == 0 ? words[i / 2] & 0xFFFFu : words[i / 2] >> 16);
      }
      const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&pair));
      v[2 * i] = two.x, v[2 * i + 1] = two.y;
    }
  }
};

// Positions 0 .. end - 1 of a key/value head, and end, which is not in the cache yet.
struct CachedPositions {
  const unsigned char* keys;  // of position 0
  int row_bytes;
  int values_from_keys;          // bytes
  int key_pieces, value_pieces;  // of kCachePiece elements
  int end;
};

// kLanes: of a position, 16 or 32. Lane l of them has pieces l + kLanes * j of a key, j < kKeyPieces, and of a value,
// j < kValuePieces. kValueInKey: values are the first pieces of keys. kBatch positions are under way at a time.
template <CacheType kType, int kLanes, int kKeyPieces, int kValuePieces, bool kValueInKey, int kBatch>
class LanesAttend {
  using Piece = CachePiece<kType>;
  struct Row {
    Piece key[kKeyPieces], value[kValueInKey ? 1 : kValuePieces];
  };

 public:
  static constexpr int kGroups = 32 / kLanes;  // positions of a warp at a time
  static constexpr int kFew = kBatch / 2;      // of a batch, which have code of their own

  // first: of the warp's positions, a multiple of kGroups; step: to its next ones. Loads the first ones.
  __device__ __forceinline__ void start(const CachedPositions& positions, int first, int step) {
    positions_ = positions, begin_ = first, step_ = step;
    most = kNoScore, total = 0;
#pragma unroll
    for (int j = 0; j < kValuePieces; ++j) {
#pragma unroll
      for (int i = 0; i < kCachePiece; ++i) sum[j][i] = 0;
    }
    load(rows_, first);
  }

  // q: the query times the scale in units of log2, in shared memory, 16-byte aligned. `newest`, in shared memory: the
  // key of position `end`, as the cache would have it; its value is newest_value bytes behind. For the warps that have
  // that position.
  __device__ __forceinline__ void run(const float* q, const unsigned char* newest, int newest_value = 0) {
    const int lane = static_cast<int>(threadIdx.x % kLanes);
    float query[kKeyPieces][kCachePiece];
#pragma unroll
    for (int j = 0; j < kKeyPieces; ++j) {
      const bool there = lane + kLanes * j < positions_.key_pieces;
      const auto* const from = reinterpret_cast<const float4*>(q + kCachePiece * (lane + kLanes * j));
      const float4 low = there ? from[0] : make_float4(0, 0, 0, 0), high = there ? from[1] : low;
      query[j][0] = low.x, query[j][1] = low.y, query[j][2] = low.z, query[j][3] = low.w;
      query[j][4] = high.x, query[j][5] = high.y, query[j][6] = high.z, query[j][7] = high.w;
    }
    if (begin_ > positions_.end) return;
#pragma unroll 1
    for (; begin_ + kBatch * step_ <= positions_.end; begin_ += kBatch * step_) {
      Row next[kBatch];
      load(next, begin_ + kBatch * step_);
      add<kBatch>(query);
#pragma unroll
      for (int b = 0; b < kBatch; ++b) rows_[b] = next[b];
    }
    take_newest(newest, newest_value);
    if (begin_ + kFew * step_ > positions_.end) {
      add<kFew>(query);
    } else {
      add<kBatch>(query);
    }
  }

  // Of the lane's group: the largest score, the sum of 2^(score - most), and of these factors times values.
  float most, total;
  float sum[kValuePieces][kCachePiece];

 private:
  __device__ __forceinline__ int position(int begin, int b) const {
    return begin + b * step_ + static_cast<int>(threadIdx.x % 32 / kLanes);
  }

  __device__ __forceinline__ void load(Row (&rows)[kBatch], int begin) const {
    const int lane = static_cast<int>(threadIdx.x % kLanes);
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int p = position(begin, b);
      const unsigned char* const from =
          positions_.keys + static_cast<long long>(p) * positions_.row_bytes + lane * Piece::kBytes;
#pragma unroll
      for (int j = 0; j < kKeyPieces; ++j) {
        rows[b].key[j].load(from + kLanes * j * Piece::kBytes,
                            p < positions_.end && lane + kLanes * j < positions_.key_pieces);
      }
      if constexpr (!kValueInKey) {
#pragma unroll
        for (int j = 0; j < kValuePieces; ++j) {
          rows[b].value[j].load(from + positions_.values_from_keys + kLanes * j * Piece::kBytes,
                                p < positions_.end && lane + kLanes * j < positions_.value_pieces);
        }
      }
    }
  }

  __device__ __forceinline__ void take_newest(const unsigned char* newest, int newest_value) {
    const int lane = static_cast<int>(threadIdx.x % kLanes);
    const unsigned char* const from = newest + lane * Piece::kBytes;
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (position(begin_, b) != positions_.end) continue;
#pragma unroll
      for (int j = 0; j < kKeyPieces; ++j) {
        rows_[b].key[j].load(from + kLanes * j * Piece::kBytes, lane + kLanes * j < positions_.key_pieces);
      }
      if constexpr (!kValueInKey) {
#pragma unroll
        for (int j = 0; j < kValuePieces; ++j) {
          rows_[b].value[j].load(from + newest_value + kLanes * j * Piece::kBytes,
                                 lane + kLanes * j < positions_.value_pieces);
        }
      }
    }
  }

  // The first kCount of the batch.
  template <int kCount>
  __device__ __forceinline__ void add(const float (&query)[kKeyPieces][kCachePiece]) {
    float score[kCount];
#pragma unroll
    for (int b = 0; b < kCount; ++b) {
#pragma unroll
      for (int j = 0; j < kKeyPieces; ++j) {
        float key[kCachePiece], part = 0;
        rows_[b].key[j].unpack(key);
#pragma unroll
        for (int i = 0; i < kCachePiece; ++i) part = fmaf(key[i], query[j][i], part);
        score[b] = j == 0 ? part : score[b] + part;
      }
    }
    float reference = most;
#pragma unroll
    for (int d = kLanes / 2; d > 0; d /= 2) {
#pragma unroll
      for (int b = 0; b < kCount; ++b) score[b] += __shfl_xor_sync(0xFFFFFFFFu, score[b], d);
    }
#pragma unroll
    for (int b = 0; b < kCount; ++b) {
      if (position(begin_, b) > positions_.end) score[b] = kNoScore;
      reference = fmaxf(reference, score[b]);
    }
    const float before = most;
    most = reference;
    if (reference == kNoScore) reference = 0;  // nothing seen yet: all factors are 2^-inf
    const float factor = power_of_two(before - reference);
    total *= factor;
#pragma unroll
    for (int j = 0; j < kValuePieces; ++j) {
#pragma unroll
      for (int i = 0; i < kCachePiece; ++i) sum[j][i] *= factor;
    }
#pragma unroll
    for (int b = 0; b < kCount; ++b) {
      const float p = power_of_two(score[b] - reference);
      total += p;
#pragma unroll
      for (int j = 0; j < kValuePieces; ++j) {
        float value[kCachePiece];
        (kValueInKey ? rows_[b].key[j] : rows_[b].value[j]).unpack(value);
#pragma unroll
        for (int i = 0; i < kCachePiece; ++i) sum[j][i] = fmaf(p, value[i], sum[j][i]);
      }
    }
  }

  CachedPositions positions_;
  int begin_, step_;
  Row rows_[kBatch];
};

}  // namespace fairway::kernels::cuda
