// One CTA: a unit of queries meets the tiles of its split, with a running maximum and sum (flash attention).
//
// Tensor instructions have positions as rows and queries as columns for the scores, values as rows and queries as
// columns for the sums. So the number of queries is a multiple of 8 and every warp has its own values.
#pragma once

#include <cuda_fp16.h>

#include "kernels/common/cuda/attend_args.cuh"
#include "kernels/common/cuda/attend_fragments.cuh"
#include "kernels/common/cuda/attend_shape.cuh"
#include "kernels/common/cuda/attend_unit.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/shared_fragments.cuh"

namespace fairway::kernels::cuda {

constexpr float kMinusInfinity = -__builtin_huge_valf();

template <class Shape>
class AttendCta {
  using Share = typename Shape::Share;
  using Fragments = AttendFragments<Shape::kType>;
  using Memory = AttendMemory<Shape>;
  static constexpr int kQueries = Shape::kQueries;
  static constexpr int kNoEnd = 0x7FFFFFFF;
  // Between a warp's tiles of values: a multiple of eight pieces, so that it may be added to a place in a row.
  static constexpr int kValueBytes = 16 * kAttendWarps * Shape::kElemBytes;
  static_assert(kValueBytes % (8 * kPieceBytes) == 0);

 public:
  __device__ explicit AttendCta(const AttendArgs& args)
      : args_(args),
        memory_(args),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32) {
    unsigned char* at = dynamic_shared<unsigned char>();
    queries_ = {at, memory_.query_layout};
    tiles_ = at += memory_.query_bytes;
    probabilities_ = {at += memory_.tiles_bytes(), memory_.probability_layout};
    maxima_ = reinterpret_cast<float*>(at += memory_.probability_bytes);
    factors_ = maxima_ + Share::kRowWarps * kQueries;
    limits_ = reinterpret_cast<int*>(factors_ + kQueries);
    parts_ = factors_ + 2 * kQueries;
    part_ = warp_ / (Share::kRowWarps * Share::kColumnWarps);
    row_warp_ = warp_ % Share::kRowWarps;
    column_ = warp_ / Share::kRowWarps % Share::kColumnWarps * Share::kColumns;
  }

  __device__ void run() {
    const bool early = args_.call.fresh > 0;
    if (!early) wait_for_previous_kernel();
    const AttendUnit unit(args_, kQueries, Shape::kElemBytes);
    const AttendSpan span = attend_span(unit.last_position, args_.splits, static_cast<int>(blockIdx.z));
    const bool empty = span.begin >= span.end;
    if (early) {
      if (!empty) copy_positions(args_, unit, tile_rows(span.begin), span.begin, 0, unit.settled);
      wait_for_previous_kernel();
    }
    let_next_kernel_start();
    if (empty) return;
    copy_positions(args_, unit, tile_rows(span.begin), span.begin, unit.settled, kNoEnd);
    copy_queries<Shape>(args_, unit, queries_);
    copy_async_commit();
    start(unit);
    for (int tile = span.begin; tile < span.end; ++tile) {
      copy_async_wait<0>();
      __syncthreads();  // the tile is there, and the one before it is no longer read
      if constexpr (Shape::kBuffers == 2) {
        if (tile + 1 < span.end) {
          copy_positions(args_, unit, tile_rows(tile + 1), tile + 1, 0, kNoEnd);
          copy_async_commit();
        }
      }
      score(tile);
      gather(tile);
      if constexpr (Shape::kBuffers == 1) {
        if (tile + 1 < span.end) {
          __syncthreads();  // the tile is no longer read
          copy_positions(args_, unit, tile_rows(tile + 1), tile + 1, 0, kNoEnd);
          copy_async_commit();
        }
      }
    }
    finish(unit);
  }

 private:
  __device__ SharedRows tile_rows(int tile) const {
    return {tiles_ + tile % Shape::kBuffers * memory_.tile_bytes, memory_.tile_layout};
  }

  __device__ void start(const AttendUnit& unit) {
    for (int n = static_cast<int>(threadIdx.x); n < kQueries; n += kAttendThreads) limits_[n] = unit.limit(args_, n);
    for (int j = 0; j < Share::kColumns; ++j) {
      for (int e = 0; e < 2; ++e) {
        maximum_[j][e] = kMinusInfinity;
        total_[j][e] = 0;
      }
    }
    // A tile of values beyond the last is computed like the last one of the warp, and not stored.
    const int value_tiles = args_.call.value_dim / 16, first_tile = min(warp_, value_tiles - 1);
    const SharedRow row = tile_rows(0).row(Fragments::value_row(lane_));
    value_offset_ = static_cast<int>(row.piece(args_.value_piece + Fragments::value_piece(first_tile, lane_)) - tiles_);
    last_value_tile_ = (value_tiles - 1 - first_tile) / kAttendWarps;
    for (int i = 0; i < Shape::kValueTiles; ++i) {
      for (int t = 0; t < Shape::kQueryTiles; ++t) {
        for (int e = 0; e < 4; ++e) sums_[i][t][e] = 0;
      }
    }
  }

  // Scores of a tile, their maxima, probabilities and the factors of what was summed before. Element e of a lane's
  // s[i][j] is position lane / 4 + 8 * (e / 2) of tile i, query 2 * (lane % 4) + e % 2 of tile j.
  __device__ void score(int tile) {
    float s[Share::kRows][Share::kColumns][4] = {};
    const int steps = args_.call.key_dim / 16, row = 16 * row_warp_ * Share::kRows;
    const SharedRow keys = tile_rows(tile).row(row + Fragments::key_row(lane_));
    const ColumnOperand<Share::kColumns> queries(queries_, 8 * column_, lane_);
#pragma unroll Shape::kScoreUnroll
    for (int step = part_; step < steps; step += Share::kParts) {
      unsigned b[Share::kColumns][2], a[Share::kRows][4];
      queries.load(step, b);
#pragma unroll
      for (int i = 0; i < Share::kRows; ++i) {
        Fragments::key(keys, i * memory_.tile_layout.bytes(16), step, lane_, a[i]);
      }
#pragma unroll
      for (int i = 0; i < Share::kRows; ++i) {
#pragma unroll
        for (int j = 0; j < Share::kColumns; ++j) {
          mma_half(s[i][j], a[i][0], a[i][1], a[i][2], a[i][3], b[j][0], b[j][1]);
        }
      }
    }
    add_parts(s);
    if (part_ == 0) scale_and_mask(s, tile * kAttendTile + row);
    __syncthreads();
    if (part_ == 0) exponentials(s, row);
    __syncthreads();
  }

  __device__ void add_parts(float (&s)[Share::kRows][Share::kColumns][4]) {
    if constexpr (Share::kParts == 2) {
      float* const mine = parts_ + threadIdx.x % (kAttendThreads / 2);
      if (part_ == 1) {
        for (int i = 0; i < 4 * Share::kColumns; ++i) mine[i * (kAttendThreads / 2)] = s[0][i / 4][i % 4];
      }
      __syncthreads();
      if (part_ == 0) {
        for (int i = 0; i < 4 * Share::kColumns; ++i) s[0][i / 4][i % 4] += mine[i * (kAttendThreads / 2)];
      }
    }
  }

  __device__ void scale_and_mask(float (&s)[Share::kRows][Share::kColumns][4], int first_position) {
    for (int j = 0; j < Share::kColumns; ++j) {
      const int2 limit = *reinterpret_cast<const int2*>(limits_ + 8 * (column_ + j) + 2 * (lane_ % 4));
      for (int e = 0; e < 2; ++e) {
        float most = kMinusInfinity;
        for (int i = 0; i < 2 * Share::kRows; ++i) {
          float& v = s[i / 2][j][e + i % 2 * 2];
          v = first_position + 8 * i + lane_ / 4 <= (e == 0 ? limit.x : limit.y) ? v * args_.scale_log2
                                                                                 : kMinusInfinity;
          most = fmaxf(most, v);
        }
        for (int d = 4; d < 32; d *= 2) most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, d));
        if (lane_ < 4) maxima_[row_warp_ * kQueries + 8 * (column_ + j) + 2 * lane_ + e] = most;
      }
    }
  }

  __device__ void exponentials(const float (&s)[Share::kRows][Share::kColumns][4], int row) {
    for (int j = 0; j < Share::kColumns; ++j) {
      float reference[2];
      for (int e = 0; e < 2; ++e) {
        const int n = 8 * (column_ + j) + 2 * (lane_ % 4) + e;
        float most = maximum_[j][e];
        for (int w = 0; w < Share::kRowWarps; ++w) most = fmaxf(most, maxima_[w * kQueries + n]);
        reference[e] = most == kMinusInfinity ? 0.0f : most;  // nothing seen yet: all are exp2(-inf)
        const float factor = power_of_two(maximum_[j][e] - reference[e]);
        maximum_[j][e] = most;
        total_[j][e] *= factor;
        if (row_warp_ == 0 && lane_ < 4) factors_[n] = factor;
      }
      for (int i = 0; i < 2 * Share::kRows; ++i) {
        // The sum is that of the rounded probabilities, the ones that the values get.
        const __half2 p = __floats2half2_rn(power_of_two(s[i / 2][j][i % 2 * 2] - reference[0]),
                                            power_of_two(s[i / 2][j][i % 2 * 2 + 1] - reference[1]));
        total_[j][0] += __low2float(p);
        total_[j][1] += __high2float(p);
        unsigned char* const to = probabilities_.piece(row + 8 * i + lane_ / 4, column_ + j);
        *reinterpret_cast<__half2*>(to + 4 * (lane_ % 4)) = p;
      }
    }
  }

  // sums = factor * sums + values^T probabilities.
  __device__ void gather(int tile) {
    const RowOperand<Shape::kQueryTiles> probabilities(probabilities_, 0, lane_);
#pragma unroll
    for (int t = 0; t < Shape::kQueryTiles; ++t) {
      const float2 factor = *reinterpret_cast<const float2*>(factors_ + 8 * t + 2 * (lane_ % 4));
#pragma unroll
      for (int i = 0; i < Shape::kValueTiles; ++i) {
        sums_[i][t][0] *= factor.x, sums_[i][t][1] *= factor.y, sums_[i][t][2] *= factor.x, sums_[i][t][3] *= factor.y;
      }
    }
#pragma unroll Shape::kGatherUnroll
    for (int k = 0; k < kAttendTile / 16; ++k) {
      unsigned b[Shape::kQueryTiles][2];
      probabilities.load(k, b);
      const unsigned char* const from =
          tiles_ + tile % Shape::kBuffers * memory_.tile_bytes + k * memory_.tile_layout.bytes(16) + value_offset_;
#pragma unroll
      for (int begin = 0; begin < Shape::kValueTiles; begin += Shape::kAhead) {
        unsigned a[Shape::kAhead][4];
#pragma unroll
        for (int i = 0; i < Shape::kAhead; ++i) {
          Fragments::value(from + min(begin + i, last_value_tile_) * kValueBytes, a[i]);
        }
#pragma unroll
        for (int i = 0; i < Shape::kAhead; ++i) {
#pragma unroll
          for (int t = 0; t < Shape::kQueryTiles; ++t) {
            mma_half(sums_[begin + i][t], a[i][0], a[i][1], a[i][2], a[i][3], b[t][0], b[t][1]);
          }
        }
      }
    }
  }

  // Sums over all positions, of all warps: to maxima_; the maxima to factors_.
  __device__ void share_totals() {
    if (part_ == 0) {
      for (int j = 0; j < Share::kColumns; ++j) {
        for (int e = 0; e < 2; ++e) {
          float total = total_[j][e];
          for (int d = 4; d < 32; d *= 2) total += __shfl_xor_sync(0xFFFFFFFFu, total, d);
          const int n = 8 * (column_ + j) + 2 * lane_ + e;
          if (lane_ < 4) maxima_[row_warp_ * kQueries + n] = total;
          if (lane_ < 4 && row_warp_ == 0) factors_[n] = maximum_[j][e];
        }
      }
    }
    __syncthreads();
  }
  __device__ float total_of(int n) const {
    float total = 0;
    for (int w = 0; w < Share::kRowWarps; ++w) total += maxima_[w * kQueries + n];
    return total;
  }

  __device__ void finish(const AttendUnit& unit) {
    __syncthreads();  // factors and tiles are no longer read
    share_totals();
    auto* const inverses = reinterpret_cast<float*>(limits_);  // of the totals
    if (static_cast<int>(threadIdx.x) < kQueries) {
      const float total = total_of(static_cast<int>(threadIdx.x));
      inverses[threadIdx.x] = total == 0.0f ? 0.0f : 1.0f / total;
    }
    __syncthreads();
    const int row_bytes = memory_.output_stride * static_cast<int>(sizeof(__half));
#pragma unroll
    for (int t = 0; t < Shape::kQueryTiles; ++t) {
      const float2 inverse = *reinterpret_cast<const float2*>(inverses + 8 * t + 2 * (lane_ % 4));
#pragma unroll
      for (int i = 0; i < Shape::kValueTiles; ++i) {
        const int value_tile = warp_ + kAttendWarps * i;
        if (value_tile < args_.call.value_dim / 16) {
          Fragments::store_values(tiles_ + 8 * t * row_bytes + 32 * value_tile, row_bytes, lane_, sums_[i][t], inverse);
        }
      }
    }
    __syncthreads();
    store(unit, reinterpret_cast<const __half*>(tiles_));  // [queries, output_stride]
  }

  __device__ void store(const AttendUnit& unit, const __half* outputs) {
    const int split = static_cast<int>(blockIdx.z), values = args_.call.value_dim;
    for (int n = warp_; n < unit.count; n += kAttendWarps) {
      const long long query = unit.query(args_, n);
      __half* const to =
          args_.splits == 1 ? args_.call.out + query * values : args_.partial + (query * args_.splits + split) * values;
      for (int c = 8 * lane_; c < values; c += 8 * 32) {
        *reinterpret_cast<uint4*>(to + c) = *reinterpret_cast<const uint4*>(outputs + n * memory_.output_stride + c);
      }
      if (args_.splits > 1 && lane_ == 0) {
        const float total = total_of(n);
        args_.weights[query * args_.splits + split] = total == 0.0f ? kMinusInfinity : factors_[n] + log2f(total);
      }
    }
  }

  const AttendArgs& args_;
  const Memory memory_;
  const int warp_, lane_;
  int part_, row_warp_, column_;  // which scores are this warp's: of elements, of positions, first tile of queries
  SharedRows queries_, probabilities_;
  unsigned char* tiles_;
  float *maxima_, *factors_, *parts_;
  int* limits_;  // last position of each query

  int value_offset_, last_value_tile_;  // bytes into a tile, of what this lane reads; of the warp's tiles
  float maximum_[Share::kColumns][2], total_[Share::kColumns][2];
  float sums_[Shape::kValueTiles][Shape::kQueryTiles][4];
};

template <class Shape>
__global__ void __launch_bounds__(kAttendThreads, Shape::kCtas) attend_unit(const __grid_constant__ AttendArgs args) {
  AttendCta<Shape>(args).run();
}

template <CacheType kType, int kQueryTiles, int kValueTiles, int kBuffers = 2>
AttendKernel attend_instance() {
  using Shape = AttendShape<kType, kQueryTiles, kValueTiles, kBuffers>;
  return {attend_unit<Shape>, Shape::kQueries, Shape::kCtas,
          [](const AttendArgs& args) { return AttendMemory<Shape>(args).bytes(); }};
}

template <CacheType kType>
AttendKernel choose_attend_instance(int queries, int value_dim) {
  constexpr int kOne = 16 * kAttendWarps;  // values of one tile a warp
  if (queries <= 8) return value_dim <= kOne ? attend_instance<kType, 1, 1>() : attend_instance<kType, 1, 4>();
  if (queries <= 24) return value_dim <= kOne ? attend_instance<kType, 3, 1>() : attend_instance<kType, 3, 4>();
  return value_dim <= kOne ? attend_instance<kType, 8, 1>() : attend_instance<kType, 8, 4>();
}

// For wide keys and values in little shared memory.
template <CacheType kType>
AttendKernel choose_small_attend_instance(int queries) {
  return queries <= 8 ? attend_instance<kType, 1, 4, 1>() : attend_instance<kType, 8, 4, 1>();
}

}  // namespace fairway::kernels::cuda
