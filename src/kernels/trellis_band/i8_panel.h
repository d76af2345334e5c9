// int8 rows of many activations: a block of inputs is decoded once and multiplied by all rows in register tiles.
#pragma once

#include "kernels/trellis_band/i8.h"

namespace fairway::kernels {

// What does not depend on the width of a slice at compile time, so that it is compiled once for both widths.
template <class K>
struct BandI8PanelParts : BandI8<K> {
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

  // Tile row of a slice of so many tiles -> panel[lines][columns].
  template <int kBits>
  [[gnu::noinline]] static void decode_tile_row(Words tiles, int count, std::int64_t ahead, std::uint32_t* out) {
    typename K::template Codes<kBits> codes;
    const std::int64_t width = count * codec::kTileDim;
    Base::prefetch_end(tiles + ahead, std::int64_t{count} * 32 * kBits);
    for (int t = 0; t < count; ++t, tiles += 32 * kBits, out += codec::kTileDim) {
      Base::prefetch(tiles + ahead, 32 * kBits);
      codes.load(tiles);
      unrolled<kTileLines<K>>([&](auto line) FAIRWAY_INLINE_LAMBDA {
        I c[kPerTile];
        codes.template line<line>(c);
        unrolled<kPerTile>([&](auto v) FAIRWAY_INLINE_LAMBDA { S::store_i(out + line * width + v * S::kLanes, c[v]); });
      });
    }
  }

  // The inputs under one scale: a panel of `width` columns, and rows with their scales.
  struct Operands {
    const std::uint32_t* panel;
    std::int64_t width;
    Words values;
    std::int64_t row_stride;
    const float* scales;
    std::int64_t scale_stride;

    Operands from_row(int row) const {
      return {panel, width, values + row * row_stride, row_stride, scales + row * scale_stride, scale_stride};
    }
  };

  // y[kRows][width of 128] += scales * (panel times values), in register tiles of kRows x kWide vectors.
  template <int kRows, int kWide>
  [[gnu::noinline]] static void multiply(const Operands& in, float* y) {
    const std::uint32_t* panel = in.panel;
    const Words values = in.values;
    const std::int64_t row_stride = in.row_stride, width = in.width;
    for (std::int64_t v = 0; v < width; v += kWide * S::kLanes, panel += kWide * S::kLanes, y += kWide * S::kLanes) {
      Sum sum[kRows][kWide];
      unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA {
        unrolled<kWide>([&](auto w) FAIRWAY_INLINE_LAMBDA { sum[r][w] = K::zero(); });
      });
      const std::uint32_t* line = panel;
      for (int k = 0; k < kScaleLines; ++k, line += width) {
        I c[kWide];
        unrolled<kWide>([&](auto w) FAIRWAY_INLINE_LAMBDA { c[w] = S::load_i(line + w * S::kLanes); });
        unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA {
          const I q = S::broadcast_word(values + r * row_stride + 4 * k);
          unrolled<kWide>([&](auto w) FAIRWAY_INLINE_LAMBDA { sum[r][w] = K::dot(sum[r][w], c[w], q); });
        });
      }
      unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA {
        const F scale = S::set1(in.scales[r * in.scale_stride]);
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
  static void multiply_rows(const Operands& in, int m, float* y) {
    if constexpr (kMost > 1) {
      if (m < kMost) return multiply_rows<kMost - 1>(in, m, y);
    }
    multiply<kMost, kTileWide>(in, y);
  }

  // Spread evenly over register tiles: a tile of one or two rows waits for its sums, at the cost of four or five.
  static void multiply_any(Operands in, int m, float* y) {
    for (int passes = (m + kTileRows - 1) / kTileRows; passes > 0; --passes) {
      const int count = (m + passes - 1) / passes;
      multiply_rows<kTileRows>(in, count, y);
      in = in.from_row(count);
      y += count * kBandWidth;
      m -= count;
    }
  }

  using DecodeFn = void (*)(Words tiles, int count, std::int64_t ahead, std::uint32_t* out);
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
};

// Slices of kSliceTiles tiles: half a band or the whole one.
template <class K, int kSliceTiles>
struct BandI8Panel : BandI8PanelParts<K> {
  using Base = BandI8PanelParts<K>;
  using typename Base::Row;
  using typename Base::Words;
  static constexpr int kSliceWidth = kSliceTiles * codec::kTileDim;

  static void dot_panel(const Band& band, Words rows, std::int64_t row_stride, int m, float* y, std::uint8_t* scratch) {
    auto* panel = reinterpret_cast<std::uint32_t*>(scratch);
    const typename Base::DecodeFn decode = Base::decoder(band.bits);
    const float* facts = Row::facts(rows, band.in);
    const std::int64_t facts_stride = row_stride / static_cast<std::int64_t>(sizeof(float));
    for (int r = 0; r < m; ++r) Base::clear_row(y + r * kBandWidth, band.tiles);
    for (int block = 0; block < band.in / kBandWidth; ++block) {
      for (int slice = 0; slice < band.tiles / kSliceTiles; ++slice) {
        const Words tiles = band.words + block * kBlockTileRows * band.row_bytes + slice * kSliceTiles * 32 * band.bits;
        for (int i = 0; i < kBlockTileRows; ++i) {
          decode(tiles + i * band.row_bytes, kSliceTiles, Base::bytes_ahead(band, block),
                 panel + i * kTileLines<K> * kSliceWidth);
        }
        for (int part = 0; part < Base::kScaleParts; ++part) {
          const int scale = block * Base::kScaleParts + part;
          Base::multiply_any(
              {panel + part * Base::kScaleLines * kSliceWidth, kSliceWidth,
               rows + scale * K::kScaleInputs * kValueBytes<K>, row_stride, facts + 2 * scale, facts_stride},
              m, y + slice * kSliceWidth);
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
