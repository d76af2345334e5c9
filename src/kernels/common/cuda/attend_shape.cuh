// The instances of the attention kernel: how its warps share the work, and its shared memory.
#pragma once

#include "kernels/common/cuda/attend_args.cuh"
#include "kernels/common/cuda/shared_rows.cuh"

namespace fairway::kernels::cuda {

// How the 8 warps share the scores of a tile: [64 positions, 8 * kQueryTiles queries].
template <int kQueryTiles>
struct ScoreShare {
  static constexpr bool kMany = kQueryTiles == 8;
  static constexpr int kRows = kMany ? 2 : 1;               // tiles of 16 positions of a warp
  static constexpr int kColumns = kMany ? 2 : kQueryTiles;  // tiles of 8 queries of a warp
  static constexpr int kParts = kMany ? 1 : 2;              // warps that share a sum over elements
  static constexpr int kRowWarps = kAttendTile / 16 / kRows;
  static constexpr int kColumnWarps = kQueryTiles / kColumns;
  static_assert(kRowWarps * kColumnWarps * kParts == kAttendWarps);
};

// CTAs that an SM holds: as registers allow, and shared memory at 576 elements of a position or at 256.
constexpr int attend_ctas(CacheType type, int query_tiles, int value_tiles) {
  if (value_tiles > 1) return query_tiles == 8 || type == CacheType::kHalf ? 1 : 2;
  return query_tiles == 8 ? 2 : (query_tiles == 1 ? 4 : 3);
}

// kBufferCount: tiles in shared memory. With two of them one arrives while the other is read; one is for GPUs whose
// shared memory has no room for two.
template <CacheType kCache, int kQueryTileCount, int kValueTileCount, int kBufferCount = 2>
struct AttendShape {
  static constexpr int kBuffers = kBufferCount;
  static constexpr CacheType kType = kCache;
  static constexpr int kQueryTiles = kQueryTileCount;
  static constexpr int kValueTiles = kValueTileCount;  // tiles of 16 values of a warp
  static constexpr int kQueries = 8 * kQueryTiles;
  static constexpr int kElemBytes = cache_type_bytes(kCache);
  static constexpr int kCtas = attend_ctas(kCache, kQueryTiles, kValueTiles);
  static constexpr bool kWide = kValueTiles > 1;
  // What loops are unrolled by, and tiles of values loaded ahead: with more, registers are spilled.
  static constexpr bool kMost = kQueryTiles == 8 && kWide;
  static constexpr int kScoreUnroll = kQueryTiles == 8 ? 4 : 2, kGatherUnroll = kMost ? 2 : kAttendTile / 16;
  static constexpr int kAhead = kMost ? 2 : kValueTiles;
  using Share = ScoreShare<kQueryTiles>;
};

// Shared memory of a CTA, one after the other.
template <class Shape>
struct AttendMemory {
  RowLayout query_layout, tile_layout, probability_layout;
  int query_bytes, tile_bytes, probability_bytes, output_stride;

  __host__ __device__ explicit AttendMemory(const AttendArgs& args)
      : query_layout(RowLayout::of(args.call.key_dim / 8)),
        tile_layout(RowLayout::of(args.row_pieces)),
        probability_layout(RowLayout::of(Shape::kQueryTiles | 1)),  // an odd number: shared memory is short
        query_bytes(query_layout.bytes(Shape::kQueries)),
        tile_bytes(tile_layout.bytes(kAttendTile)),
        probability_bytes(probability_layout.bytes(kAttendTile)),
        output_stride(args.call.value_dim + 8) {}

  static constexpr int kStatisticsFloats = (Shape::Share::kRowWarps + 2) * Shape::kQueries;
  static constexpr int kPartFloats = (Shape::Share::kParts - 1) * (kAttendThreads / 2) * 4 * Shape::Share::kColumns;

  __host__ __device__ int tiles_bytes() const {  // the outputs lie where the tiles were
    const int outputs = Shape::kQueries * output_stride * 2;
    return Shape::kBuffers * tile_bytes > outputs ? Shape::kBuffers * tile_bytes : outputs;
  }
  __host__ __device__ int bytes() const {
    return query_bytes + tiles_bytes() + probability_bytes + 4 * (kStatisticsFloats + kPartFloats);
  }
};

}  // namespace fairway::kernels::cuda
