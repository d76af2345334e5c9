// int8 rows of a few activations: the codes of a tile are multiplied by all rows while they are in registers.
//
// K provides, beyond i8.h: kChains<rows>, sums kept for each row; dot_at(sum, c, address of the values).
#pragma once

#include "kernels/trellis_band/i8.h"

namespace fairway::kernels {

template <class K>
struct BandI8Direct : BandI8<K> {
  using Base = BandI8<K>;
  using Base::kPerTile;
  using typename Base::F;
  using typename Base::I;
  using typename Base::Row;
  using typename Base::S;
  using typename Base::Sum;
  using typename Base::Words;
  static_assert(K::kScaleInputs == kBandWidth);

  // One pointer per row in a register: left alone, GCC makes one for every operand and keeps them in memory.
  [[gnu::always_inline]] static void hold_in_register(Words& pointer) { asm("" : "+r"(pointer)); }

  // y[kRows][128] += one block of inputs. Sums stay in registers from tile row to tile row. kBits = 0: the width is
  // known only at run time.
  template <int kBits, int kRows>
  static void direct_block(const Band& band, Words tiles, std::int64_t ahead, const BandPlace& apart, Words x,
                           std::int64_t row_stride, const float* scales, std::int64_t scale_stride, float* y) {
    constexpr int kChains = K::template kChains<kRows>;
    const int tile_bytes = 32 * (kBits == 0 ? band.bits : kBits);
    const std::int64_t row_bytes = band.row_bytes;
    typename K::template Codes<kBits> codes;
    if constexpr (kBits == 0) codes.set_width(band.bits);
    for (int i = 0; i < kBlockTileRows; ++i) {
      Base::prefetch_end(tiles + i * row_bytes + ahead, std::int64_t{band.tiles} * tile_bytes);
    }
    for (int t = 0; t < band.tiles; ++t, tiles += tile_bytes, y += codec::kTileDim) {
      if (apart.words != nullptr) Base::prefetch_apart(apart, t, band.tiles);
      Sum total[kRows][kPerTile][kChains];
      unrolled<kRows * kPerTile * kChains>([&](auto i) FAIRWAY_INLINE_LAMBDA {
        total[i / (kPerTile * kChains)][i / kChains % kPerTile][i % kChains] = K::zero();
      });
      Words tile = tiles;
      Words values[kRows];
      unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA { values[r] = x + r * row_stride; });
      for (int i = 0; i < kBlockTileRows; ++i, tile += row_bytes) {
        unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA { hold_in_register(values[r]); });
        Base::prefetch(tile + ahead, tile_bytes);
        codes.load(tile);
        unrolled<kTileLines<K>>([&](auto line) FAIRWAY_INLINE_LAMBDA {
          I c[kPerTile];
          codes.template line<line>(c);
          unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA {
            unrolled<kPerTile>([&](auto v) FAIRWAY_INLINE_LAMBDA {
              Sum& sum = total[r][v][line % kChains];
              sum = K::dot_at(sum, c[v], values[r] + 4 * line);
            });
          });
        });
        unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA { values[r] += codec::kTileDim * kValueBytes<K>; });
      }
      unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA {
        const F scale = S::set1(scales[r * scale_stride]);
        unrolled<kPerTile>([&](auto v) FAIRWAY_INLINE_LAMBDA {
          Sum sum = total[r][v][0];
          unrolled<kChains - 1>([&](auto i) FAIRWAY_INLINE_LAMBDA { sum = K::add(sum, total[r][v][i + 1]); });
          float* const out = y + r * kBandWidth + v * S::kLanes;
          S::store(out, S::fma(scale, K::fold(sum), S::load(out)));
        });
      });
    }
  }

  // Not inlined: with all widths in one function GCC keeps the constants of each in registers across the others and
  // spills them.
  template <int kBits, int kRows>
  [[gnu::noinline]] static void direct_rows(const Band& band, Words rows, std::int64_t row_stride, float* y) {
    for (int r = 0; r < kRows; ++r) Base::clear_row(y + r * kBandWidth, band.tiles);
    const float* facts = Row::facts(rows, band.in);
    const int blocks = band.in / kBandWidth;
    for (int block = 0; block < blocks; ++block) {
      direct_block<kBits, kRows>(band, band.words + block * kBlockTileRows * band.row_bytes,
                                 Base::bytes_ahead(band, block), block + 1 < blocks ? BandPlace{} : band.next_apart,
                                 rows + block * kBandWidth * kValueBytes<K>, row_stride, facts + 2 * block,
                                 row_stride / static_cast<std::int64_t>(sizeof(float)), y);
    }
    for (int r = 0; r < kRows; ++r) Base::finish_row(rows + r * row_stride, band, y + r * kBandWidth);
  }

  using DirectFn = void (*)(const Band& band, Words rows, std::int64_t row_stride, float* y);
  template <int kRows>
  static DirectFn direct_for_bits(int bits) {
    switch (bits) {
#define FAIRWAY_CASE(b) \
  case b:               \
    return direct_rows<b, kRows>;
      FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
    }
    return nullptr;
  }
  template <int kMost, bool kRuntimeWidth>
  static DirectFn direct_for(int rows, int bits) {
    if constexpr (kMost > 1) {
      if (rows < kMost) return direct_for<kMost - 1, kRuntimeWidth>(rows, bits);
    }
    if constexpr (kRuntimeWidth) {
      return direct_rows<0, kMost>;
    } else {
      return direct_for_bits<kMost>(bits);
    }
  }

  // At most kShare rows share a decode; the rest is spread evenly, since every pass decodes again. kRuntimeWidth: one
  // body for all widths instead of one compiled for each.
  template <int kShare, bool kRuntimeWidth = false>
  static void dot_direct(const Band& band, Words rows, std::int64_t row_stride, int m, float* y, std::uint8_t*) {
    for (int passes = (m + kShare - 1) / kShare; passes > 0; --passes) {
      const int count = (m + passes - 1) / passes;
      direct_for<kShare, kRuntimeWidth>(count, band.bits)(band, rows, row_stride, y);
      rows += count * row_stride;
      y += count * kBandWidth;
      m -= count;
    }
  }

  template <int kShare, bool kRuntimeWidth = false>
  static constexpr BandKernel kernel(const BlockOps* ops) {
    return {ops, K::kCodebooks, 0, Row::row_bytes, Row::store_block, dot_direct<kShare, kRuntimeWidth>};
  }
};

}  // namespace fairway::kernels
