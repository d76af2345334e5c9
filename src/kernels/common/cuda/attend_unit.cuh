// The queries and keys of a CTA of the attention kernel, and their way into shared memory.
#pragma once

#include <cuda_fp16.h>

#include "kernels/common/cuda/attend_args.cuh"
#include "kernels/common/cuda/attend_fragments.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/shared_rows.cuh"

namespace fairway::kernels::cuda {

struct AttendUnit {
  int head, first, count;      // key/value head, and its queries
  int last_position, settled;  // of the unit; positions before `settled` may be loaded early
  const unsigned char* keys;   // of the head, at position 0 of the sequence
  long long row_bytes;
  int values_from_keys;  // bytes

  // The unit of this block. Blocks of the last rows, which see most, come first.
  __device__ AttendUnit(const AttendArgs& args, int queries, int elem_bytes) {
    const AttendCall& call = args.call;
    const int unit = call.one_sequence ? static_cast<int>(gridDim.x - 1 - blockIdx.x) : static_cast<int>(blockIdx.x);
    const int row = call.one_sequence ? 0 : unit / args.row_units;
    const int in_row = call.one_sequence ? unit : unit % args.row_units;
    const int last = call.one_sequence ? call.rows.count * args.group : (row + 1) * args.group;
    head = static_cast<int>(blockIdx.y);
    first = row * args.group + in_row * queries;
    count = min(queries, last - first);
    const int first_row = first / args.group, last_row = (first + count - 1) / args.group;
    last_position = call.rows.position[last_row];
    settled = call.fresh > 0 ? max(call.rows.position[first_row] + 1 - call.fresh, 0) : 0;
    const long long sequence = call.rows.sequence[last_row];
    const int key = call.key_offset + head * call.key_stride, value = call.value_offset + head * call.value_stride;
    row_bytes = call.cache.row_elems * elem_bytes;
    values_from_keys = (value - key) * elem_bytes;
    keys = static_cast<const unsigned char*>(call.cache.data) + sequence * call.cache.sequence_rows * row_bytes +
           key * elem_bytes;
  }

  // The unit of this block where each is a row with the only key/value head. There are no divisions in front of what is
  // loaded early.
  __device__ AttendUnit(const AttendArgs& args, int elem_bytes)
      : head(0), first(static_cast<int>(blockIdx.x) * args.group), count(args.group), values_from_keys(0) {
    const AttendCall& call = args.call;
    last_position = call.rows.position[blockIdx.x];
    const int sequence = call.rows.sequence[blockIdx.x];
    settled = call.fresh > 0 ? max(last_position + 1 - call.fresh, 0) : 0;
    row_bytes = call.cache.row_elems * elem_bytes;
    keys = static_cast<const unsigned char*>(call.cache.data) +
           (static_cast<long long>(sequence) * call.cache.sequence_rows * row_bytes + call.key_offset * elem_bytes);
  }

  // A byte of a row of the cache. No sequence has 4 GB.
  __device__ const unsigned char* row_at(int position, int byte) const {
    return keys + static_cast<unsigned>(position * static_cast<int>(row_bytes) + byte);
  }

  // Number of query n among [rows, heads].
  __device__ long long query(const AttendArgs& args, int n) const {
    const int i = first + n;
    return static_cast<long long>(i / args.group) * args.call.heads + head * args.group + i % args.group;
  }
  // The last position that query n attends to; -1 if there is none.
  __device__ int limit(const AttendArgs& args, int n) const {
    return n < count ? args.call.rows.position[(first + n) / args.group] : -1;
  }
};

// Eight lanes copy a row, every eighth piece each: they are the same distance apart in both memories.
__device__ __forceinline__ void copy_pieces(const SharedRow& row, int first, const unsigned char* from, int pieces,
                                            int lane, bool zeros) {
  unsigned char* to = row.piece(first + lane);
  from += lane * kPieceBytes;
  for (int c = lane; c < pieces; c += 8, to += 8 * kPieceBytes, from += 8 * kPieceBytes) {
    copy_async_16(to, from, zeros);
  }
}

// Positions in [begin, end) of a tile. Those after the last one are zeros: whatever the cache has there could be NaN,
// and stays NaN when it is multiplied by a probability of zero.
__device__ __forceinline__ void copy_positions(const AttendArgs& args, const AttendUnit& unit, const SharedRows& rows,
                                               int tile, int begin, int end) {
  const int lane = static_cast<int>(threadIdx.x) % 8, value_pieces = args.row_pieces - args.key_pieces;
  for (int row = static_cast<int>(threadIdx.x) / 8; row < kAttendTile; row += kAttendThreads / 8) {
    const int position = tile * kAttendTile + row;
    if (position < begin || position >= end) continue;
    const bool beyond = position > unit.last_position;
    const unsigned char* const from = unit.keys + (beyond ? 0 : position) * unit.row_bytes;
    copy_pieces(rows.row(row), 0, from, args.key_pieces, lane, beyond);
    copy_pieces(rows.row(row), args.key_pieces, from + unit.values_from_keys, value_pieces, lane, beyond);
  }
}

// A query's elements in the order of AttendFragments. Loads are under way together; lanes that have no more elements
// load and store the last ones again.
template <class Shape>
__device__ __forceinline__ void load_reordered(const SharedRows& rows, int n, const uint4* from, int steps,
                                               bool there) {
  constexpr int kBatch = Shape::kWide && Shape::kQueryTiles == 3 ? 5 : 2;  // all of 576 or of 256 elements
  const int lane = static_cast<int>(threadIdx.x) % 8;
  for (int begin = lane; begin < steps; begin += 8 * kBatch) {
    uint4 low[kBatch], high[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int step = min(begin + 8 * i, steps - 1);
      low[i] = from[2 * step], high[i] = from[2 * step + 1];
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const uint4 zeros = make_uint4(0, 0, 0, 0);
      AttendFragments<Shape::kType>::store_query(rows, n, min(begin + 8 * i, steps - 1), there ? low[i] : zeros,
                                                 there ? high[i] : zeros);
    }
  }
}

// The queries of a unit, and zeros for those that it lacks.
template <class Shape>
__device__ __forceinline__ void copy_queries(const AttendArgs& args, const AttendUnit& unit, const SharedRows& rows) {
  for (int n = static_cast<int>(threadIdx.x) / 8; n < Shape::kQueries; n += kAttendThreads / 8) {
    const bool there = n < unit.count;
    const __half* const from = args.call.q + unit.query(args, there ? n : 0) * args.call.key_dim;
    if constexpr (Shape::kType == CacheType::kHalf) {
      copy_pieces(rows.row(n), 0, reinterpret_cast<const unsigned char*>(from), args.call.key_dim / 8,
                  static_cast<int>(threadIdx.x) % 8, !there);
    } else {
      load_reordered<Shape>(rows, n, reinterpret_cast<const uint4*>(from), args.call.key_dim / 16, there);
    }
  }
}

}  // namespace fairway::kernels::cuda
