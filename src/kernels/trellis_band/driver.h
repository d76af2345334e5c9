// What the drivers of trellis_linear and moe_swiglu share: bands of a matrix, preparation of rows, domain check.
#pragma once

#include <fmt/format.h>

#include <cstdint>

#include "codec/packing.h"
#include "fairway/error.h"
#include "kernels/common/matrix.h"
#include "kernels/trellis_band/tier.h"
#include "kernels/trellis_band/trellis_band.h"

namespace fairway::kernels {

constexpr std::int64_t kRowAlignment = 64;  // bytes, of prepared rows

inline std::int64_t aligned_row_bytes(const BandKernel& kernel, int in) {
  const auto bytes = static_cast<std::int64_t>(kernel.row_bytes(in));
  return (bytes + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
}

inline int band_count(int out) {
  return (out + kBandWidth - 1) / kBandWidth;
}

// A band of a matrix, or the half of one that a task computes alone.
struct BandPart {
  int band;
  int first_tile;  // 0 or kHalfBandTiles
  int tiles;       // kBandTiles or kHalfBandTiles
};

// Part `index` of the `parts` (1 or 2) that a band is cut into.
constexpr BandPart part_of_band(int band, int index, int parts) {
  const int tiles = kBandTiles / parts;
  return {band, index * tiles, tiles};
}

// Read where the file has them: a copy with the tile rows of a band side by side, in large pages, was at most 4 %
// faster on one thread or two, at 2 and 3 bits, all weights from memory (Emerald Rapids, 2026-11-21).
inline const std::uint8_t* part_words(const TrellisMatrix& matrix, const BandPart& part) {
  return matrix.words + (std::int64_t{part.band} * kBandTiles + part.first_tile) * codec::tile_bytes(matrix.bits);
}

// A part and the one that the same thread will probably read after it.
struct BandOrder {
  const TrellisMatrix& matrix;
  BandPart part;
  const TrellisMatrix* next_matrix;  // null: none
  BandPart next_part;                // may lie beyond its matrix: there is none then
};

inline Band band_of(const BandOrder& order) {
  const TrellisMatrix& matrix = order.matrix;
  const auto row_bytes = [](const TrellisMatrix& m) { return m.out / codec::kTileDim * codec::tile_bytes(m.bits); };
  Band band{
      part_words(matrix, order.part), row_bytes(matrix), matrix.in, matrix.bits, order.part.tiles, matrix.codebook};
  const TrellisMatrix* next = order.next_matrix;
  if (next == nullptr || order.next_part.band >= band_count(next->out)) return band;
  const std::uint8_t* words = part_words(*next, order.next_part);
  if (next->bits == matrix.bits && next->in == matrix.in && next->out == matrix.out &&
      order.next_part.tiles == order.part.tiles) {
    band.next = words;
  } else {
    band.next_apart = {words, row_bytes(*next), order.next_part.tiles * codec::tile_bytes(next->bits)};
  }
  return band;
}

// row = prepared form of (x * suh) H, with x[0..count) extended by zeros to matrix.in.
inline void prepare_row(const BandKernel& kernel, const TrellisMatrix& matrix, const float* x, int count,
                        std::uint8_t* row) {
  alignas(64) float block[kBandWidth];
  for (int b = 0; b < matrix.in / kBandWidth; ++b) {
    const int begin = b * kBandWidth;
    const int here = count <= begin ? 0 : count - begin < kBandWidth ? count - begin : kBandWidth;
    kernel.ops->transform_input(x + (here > 0 ? begin : 0), here, matrix.suh + begin, block);
    kernel.store_block(block, row, matrix.in, b);
  }
}

// Prepared rows, `stride` bytes apart.
struct PreparedRows {
  const std::uint8_t* data;
  std::int64_t stride;
  int count;  // >= 1
};

// The columns of the part in y[count][128] = rows times its inner weights, neither transformed nor scaled.
inline void multiply_part(const SharedDecode& decode, const BandOrder& order, const PreparedRows& rows, float* y,
                          std::uint8_t* scratch) {
  const BandPart& part = order.part;
  if (decode.by_halves && part.tiles == kBandTiles) {
    const BandPart left{part.band, 0, kHalfBandTiles}, right{part.band, kHalfBandTiles, kHalfBandTiles};
    const BandPart after{order.next_part.band, 0, kHalfBandTiles};
    multiply_part(decode, {order.matrix, left, &order.matrix, right}, rows, y, scratch);
    multiply_part(decode, {order.matrix, right, order.next_matrix, after}, rows, y, scratch);
    return;
  }
  decode.kernel->dot(band_of(order), rows.data, rows.stride, rows.count, y + part.first_tile * codec::kTileDim,
                     scratch);
}

// The last step of a whole band: y[m][128] transformed, scaled and biased.
inline void finish_band(const BandKernel& kernel, const TrellisMatrix& matrix, int band, int m, float* y) {
  const int begin = band * kBandWidth;
  kernel.ops->transform_output(y, m, matrix.svh + begin, matrix.bias == nullptr ? nullptr : matrix.bias + begin);
}

// A kernel must not be handed a matrix outside its domain; widths and sizes were checked when the matrix was loaded.
inline void check_domain(const Tier& tier, const TrellisMatrix& matrix, const char* op) {
  if (matrix.bits < FAIRWAY_MIN_BITS || matrix.bits > FAIRWAY_MAX_BITS || matrix.in % kBandWidth != 0 ||
      matrix.out % kBandWidth != 0) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{} ({}): matrix of {} bits, {} x {}, expected 1 to 8 bits and multiples of {}", op,
                            tier.name, matrix.bits, matrix.in, matrix.out, kBandWidth));
  }
  if (!(tier.single->codebooks >> static_cast<int>(matrix.codebook) & 1)) {
    throw Error(ErrorKind::kUsage, fmt::format("{} ({}): matrix with codebook {}, which this body does not read", op,
                                               tier.name, codec::codebook_name(matrix.codebook)));
  }
}

}  // namespace fairway::kernels
