// What the drivers of trellis_linear and moe_swiglu share: bands of a matrix, preparation of rows, domain check.
#pragma once

#include <fmt/format.h>

#include <cstdint>

#include "codec/packing.h"
#include "fairway/error.h"
#include "kernels/common/matrix.h"
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

inline const std::uint8_t* band_words(const TrellisMatrix& matrix, int band) {
  return matrix.words + band * kBandTiles * codec::tile_bytes(matrix.bits);
}

// A band and the one that the same thread will probably read after it.
struct BandOrder {
  const TrellisMatrix& matrix;
  int band;
  const TrellisMatrix& next_matrix;
  int next_band;  // may lie beyond the matrix: there is none then
};

inline Band band_of(const BandOrder& order) {
  const TrellisMatrix& matrix = order.matrix;
  const TrellisMatrix& next = order.next_matrix;
  const bool alike = next.bits == matrix.bits && next.in == matrix.in && next.out == matrix.out;
  return {band_words(matrix, order.band),
          matrix.out / codec::kTileDim * codec::tile_bytes(matrix.bits),
          matrix.in,
          matrix.bits,
          kBandTiles,
          matrix.codebook,
          alike && order.next_band < band_count(next.out) ? band_words(next, order.next_band) : nullptr};
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

// y[m][128] = outputs of one band, scaled and biased, from prepared rows.
inline void compute_band(const BandKernel& kernel, const BandOrder& order, const std::uint8_t* rows,
                         std::int64_t row_stride, int m, float* y, std::uint8_t* scratch) {
  kernel.dot(band_of(order), rows, row_stride, m, y, scratch);
  const TrellisMatrix& matrix = order.matrix;
  const int begin = order.band * kBandWidth;
  kernel.ops->transform_output(y, m, matrix.svh + begin, matrix.bias == nullptr ? nullptr : matrix.bias + begin);
}

// A kernel must not be handed a matrix outside its domain; widths and sizes were checked when the matrix was loaded.
inline void check_domain(const BandKernel& kernel, const TrellisMatrix& matrix, const char* row_id) {
  if (matrix.bits < FAIRWAY_MIN_BITS || matrix.bits > FAIRWAY_MAX_BITS || matrix.in % kBandWidth != 0 ||
      matrix.out % kBandWidth != 0) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: matrix of {} bits, {} x {}, expected 1 to 8 bits and multiples of {}", row_id,
                            matrix.bits, matrix.in, matrix.out, kBandWidth));
  }
  if (!(kernel.codebooks >> static_cast<int>(matrix.codebook) & 1)) {
    throw Error(ErrorKind::kUsage, fmt::format("{}: matrix with codebook {}, which this kernel does not read", row_id,
                                               codec::codebook_name(matrix.codebook)));
  }
}

}  // namespace fairway::kernels
