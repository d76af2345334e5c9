// int8 rows of many activations: a block of inputs is decoded once and multiplied by all rows in register tiles.
#pragma once

#include "kernels/trellis_band/i8.h"

namespace fairway::kernels {

// Slices of kSliceTiles tiles: half a band or the whole one.
template <class K, int kSliceTiles>
struct BandI8Panel : BandI8<K> {
  using Base = BandI8<K>;
  using Base::kPerTile;
  using typename Base::F;
  using typename Base::I;
  using typename Base::Row;
  using typename Base::S;
  using typename Base::Sum;
  using typename Base::Words;

  static constexpr int kScaleParts = kBandWidth / K::kScaleInputs;
  static constexpr int kScaleLines = K::kScaleInputs / K::kLineInputs;  // lines under one scale
  static constexpr int kSliceWidth = kSliceTiles * codec::kTileDim;
  static constexpr int kSliceVectors = kSliceTiles * kPerTile;

  // Tile row of a slice -> panel[lines][64 columns].
  template <int kBits>
  static void decode_tile_row(Words tiles, std::int64_t ahead, std::uint32_t* out) {
    typename K::template Codes<kBits> codes;
    for (int t = 0; t < kSliceTiles; ++t, tiles += 32 * kBits, out += codec::kTileDim) {
      Base::prefetch(tiles + ahead, 32 * kBits);
      codes.load(tiles);
      unrolled<kTileLines<K>>([&](auto line) FAIRWAY_INLINE_LAMBDA {
        I c[kPerTile];
        codes.template line<line>(c);
        unrolled<kPerTile>([&](auto v)
                               FAIRWAY_INLINE_LAMBDA { S::store_i(out + line * kSliceWidth + v * S::kLanes, c[v]); });
      });
    }
  }

  // y[kRows][64 of 128] += scales * (panel times values), in register tiles of kRows x kWide vectors.
  template <int kRows, int kWide>
  static void multiply(const std::uint32_t* panel, Words values, std::int64_t row_stride, const float* scales,
                       std::int64_t scale_stride, float* y) {
    for (int v = 0; v < kSliceVectors; v += kWide, panel += kWide * S::kLanes, y += kWide * S::kLanes) {
      Sum sum[kRows][kWide];
      unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA {
        unrolled<kWide>([&](auto w) FAIRWAY_INLINE_LAMBDA { sum[r][w] = K::zero(); });
      });
      const std::uint32_t* line = panel;
      for (int k = 0; k < kScaleLines; ++k, line += kSliceWidth) {
        I c[kWide];
        unrolled<kWide>([&](auto w) FAIRWAY_INLINE_LAMBDA { c[w] = S::load_i(line + w * S::kLanes); });
        unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA {
          const I q = S::broadcast_word(values + r * row_stride + 4 * k);
          unrolled<kWide>([&](auto w) FAIRWAY_INLINE_LAMBDA { sum[r][w] = K::dot(sum[r][w], c[w], q); });
        });
      }
      unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA {
        const F scale = S::set1(scales[r * scale_stride]);
        unrolled<kWide>([&](auto w) FAIRWAY_INLINE_LAMBDA {
          float* const out = y + r * kBandWidth + w * S::kLanes;
          S::store(out, S::fma(scale, K::fold(sum[r][w]), S::load(out)));
        });
      });
    }
  }

  // Register tiles as in the fp32 panel.
  static constexpr int kTileRows = 6;
  static constexpr int kTileWide = S::kLanes == 16 ? 4 : 2;

  template <int kMost>
  static void multiply_rows(const std::uint32_t* panel, Words values, std::int64_t row_stride, const float* scales,
                            std::int64_t scale_stride, int m, float* y) {
    if constexpr (kMost > 1) {
      if (m < kMost) return multiply_rows<kMost - 1>(panel, values, row_stride, scales, scale_stride, m, y);
    }
    multiply<kMost, kTileWide>(panel, values, row_stride, scales, scale_stride, y);
  }

  // Spread evenly over register tiles: a tile of one or two rows waits for its sums, at the cost of four or five.
  static void multiply_any(const std::uint32_t* panel, Words values, std::int64_t row_stride, const float* scales,
                           std::int64_t scale_stride, int m, float* y) {
    for (int passes = (m + kTileRows - 1) / kTileRows; passes > 0; --passes) {
      const int count = (m + passes - 1) / passes;
      multiply_rows<kTileRows>(panel, values, row_stride, scales, scale_stride, count, y);
      values += count * row_stride;
      scales += count * scale_stride;
      y += count * kBandWidth;
      m -= count;
    }
  }

  using DecodeFn = void (*)(Words tiles, std::int64_t ahead, std::uint32_t* out);
  static DecodeFn decoder(int bits) {
    switch (bits) {
#define FAIRWAY_CASE(b) \
  case b:               \
    return decode_tile_row<b>;
      FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
    }
    return nullptr;
  }

  static void dot_panel(const Band& band, Words rows, std::int64_t row_stride, int m, float* y, std::uint8_t* scratch) {
    auto* panel = reinterpret_cast<std::uint32_t*>(scratch);
    const DecodeFn decode = decoder(band.bits);
    const float* facts = Row::facts(rows, band.in);
    for (int r = 0; r < m; ++r) Base::clear_row(y + r * kBandWidth, band.tiles);
    for (int block = 0; block < band.in / kBandWidth; ++block) {
      for (int slice = 0; slice < band.tiles / kSliceTiles; ++slice) {
        const Words tiles = band.words + block * kBlockTileRows * band.row_bytes + slice * kSliceTiles * 32 * band.bits;
        for (int i = 0; i < kBlockTileRows; ++i) {
          decode(tiles + i * band.row_bytes, Base::bytes_ahead(band, block), panel + i * kTileLines<K> * kSliceWidth);
        }
        for (int part = 0; part < kScaleParts; ++part) {
          const int scale = block * kScaleParts + part;
          multiply_any(panel + part * kScaleLines * kSliceWidth, rows + scale * K::kScaleInputs * kValueBytes<K>,
                       row_stride, facts + 2 * scale, row_stride / static_cast<std::int64_t>(sizeof(float)), m,
                       y + slice * kSliceWidth);
        }
      }
    }
    for (int r = 0; r < m; ++r) Base::finish_row(rows + r * row_stride, band, y + r * kBandWidth);
  }

  static constexpr BandKernel kernel(const BlockOps* ops) {
    constexpr std::size_t kPanelBytes = sizeof(std::uint32_t) * kBlockTileRows * kTileLines<K> * kSliceWidth;
    return {ops, K::kCodebooks, kPanelBytes, Row::row_bytes, Row::store_block, dot_panel};
  }
};

}  // namespace fairway::kernels
