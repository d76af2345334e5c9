// Bands with int8 activations (mul1 only), for an instruction-set class K: the parts that every one of them shares.
//
// A mul1 value before its final rounding is a * n - 3.453125 with n the byte sum 0..1020, so a product of a row with a
// column is a * sum(n q) - 3.453125 * sum(q), times the scale of the row's 128-input block. sum(n q) of a block is at
// most 1020 * 127 * 128 < 2^24: exact in int32 and in fp32. The rest is one fused multiply-add per block in ascending
// order, so all kernels of this format give the same bits.
//
// K provides: Simd (trait); kVectorsPerTile, registers of a row pair of a tile (16 columns); Sums<kBits>, with
// load(tile) and pair_sums<q>(n), the byte sums of tile rows 2q and 2q + 1 as 16-bit halves of each lane;
// natural_order(v), the columns of a tile from lane order; prefetch<kBits>(tile); multiply_tile_row<kBits>(...), as the
// one here.
#pragma once

#include <cstring>

#include "codec/trellis.h"
#include "kernels/trellis_band/trellis_band.h"
#include "kernels/trellis_band/unroll.h"

namespace fairway::kernels {

constexpr int kTilePairs = codec::kTileDim / 2;                      // row pairs of a tile
constexpr float kMul1Step = codec::kMul1ScaleNumerator / 262144.0f;  // a = 1774 * 2^-18
constexpr float kMul1Offset = 3.453125f;                             // -(1024 a + bias), exact; not 510 a
static_assert(1024 * codec::kMul1ScaleNumerator + codec::kMul1BiasNumerator == -905216 && 905216 == 262144 * 3.453125);

// How the int8 values of a row are stored; both take two bytes per input.
enum class I8Layout { kPairs16, kDoubledBytes };  // int16 each; or each byte twice

// Prepared row: [in] * 2 bytes of values, then per block its scale and the sum of its integers, as floats.
template <class K, I8Layout kLayout>
struct I8Row {
  using S = typename K::Simd;

  static std::size_t row_bytes(int in) {
    return static_cast<std::size_t>(in) * 2 + static_cast<std::size_t>(in / kBandWidth) * 2 * sizeof(float);
  }
  static const float* block_facts(const std::uint8_t* row, int in) {
    return reinterpret_cast<const float*>(row + static_cast<std::int64_t>(in) * 2);
  }

  // Integer maximum of the magnitudes' bit patterns, so NaN wins and reaches the result through the scale.
  static float largest_magnitude(const float* x) {
    typename S::I largest = S::set1_i(0);
    for (int i = 0; i < kBandWidth; i += S::kLanes) {
      largest = S::max_u(largest, S::and_i(S::as_int(S::load(x + i)), S::set1_i(0x7FFFFFFF)));
    }
    std::uint32_t lanes[S::kLanes];
    S::store_i(lanes, largest);
    std::uint32_t bits = 0;
    for (int i = 0; i < S::kLanes; ++i) bits = lanes[i] > bits ? lanes[i] : bits;
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof magnitude);
    return magnitude;
  }

  static void store_block(const float* x, std::uint8_t* row, int in, int block) {
    const float largest = largest_magnitude(x);
    const bool tiny = largest < 1e-36f;  // 127 / largest would overflow; such a block counts as zero
    const float inverse = tiny ? 0.0f : 127.0f / largest;
    std::uint8_t* out = row + block * kBandWidth * 2;
    typename S::I sum = S::set1_i(0);
    for (int i = 0; i < kBandWidth; i += S::kLanes) {
      typename S::I q = S::to_int(S::mul(S::load(x + i), S::set1(inverse)));
      q = S::max_i(S::set1_i(-127), S::min_i(S::set1_i(127), q));
      sum = S::add_i(sum, q);
      if constexpr (kLayout == I8Layout::kDoubledBytes) {
        const typename S::I byte = S::and_i(q, S::set1_i(0xFF));
        q = S::or_i(byte, S::template shift_left<8>(byte));
      }
      S::store_low16(out + 2 * i, q);
    }
    std::int32_t lanes[S::kLanes];
    S::store_i(lanes, sum);
    std::int32_t total = 0;
    for (int i = 0; i < S::kLanes; ++i) total += lanes[i];
    float* facts = reinterpret_cast<float*>(row + static_cast<std::int64_t>(in) * 2) + 2 * block;
    facts[0] = tiny ? 0.0f : largest / 127.0f;
    facts[1] = static_cast<float>(total);
  }
};

template <class K>
struct BandI8 {
  using S = typename K::Simd;
  using F = typename S::F;
  using I = typename S::I;
  using Sum = typename S::Sum;
  using Row = I8Row<K, I8Layout::kPairs16>;
  using Words = const std::uint8_t*;
  static constexpr int kPerTile = K::kVectorsPerTile;
  static constexpr int kVectors = kBandTiles * kPerTile;

  // y += scale of the block * exact integer products, for one row of the band.
  static void fold_block(const std::int32_t* acc, float scale, float* y) {
    for (int v = 0; v < kVectors; ++v) {
      const int at = v * S::kLanes;
      S::store(y + at, S::fma(S::set1(scale), S::to_float(S::load_i(acc + at)), S::load(y + at)));
    }
  }

  // y = a * y - 3.453125 * (sum of scale * integer sum), and the columns of each tile into natural order.
  static void finish_row(Words row, int in, float* y) {
    const float* facts = Row::block_facts(row, in);
    float sum = 0;
    for (int b = 0; b < in / kBandWidth; ++b) sum = S::fma_scalar(facts[2 * b], facts[2 * b + 1], sum);
    const F offset = S::set1(-(kMul1Offset * sum));
    for (int t = 0; t < kBandTiles; ++t, y += codec::kTileDim) {
      F v[kPerTile];
      for (int i = 0; i < kPerTile; ++i) v[i] = S::fma(S::set1(kMul1Step), S::load(y + i * S::kLanes), offset);
      K::natural_order(v);
      for (int i = 0; i < kPerTile; ++i) S::store(y + i * S::kLanes, v[i]);
    }
  }

  // Tile row of the band times one row of x, products straight from registers: acc[128] += integer products.
  template <int kBits>
  static void multiply_tile_row(Words tiles, Words ahead, Words x, std::int32_t* acc) {
    typename K::template Sums<kBits> sums;
    for (int t = 0; t < kBandTiles; ++t, acc += codec::kTileDim) {
      K::template prefetch<kBits>(ahead + t * 32 * kBits);
      sums.load(tiles + t * 32 * kBits);
      Sum total[kPerTile];
      unrolled<kPerTile>([&](auto v) FAIRWAY_INLINE_LAMBDA { total[v] = S::sum_of(S::load_i(acc + v * S::kLanes)); });
      unrolled<kTilePairs>([&](auto pair) FAIRWAY_INLINE_LAMBDA {
        I n[kPerTile];
        sums.template pair_sums<pair>(n);
        const I q = S::broadcast_word(x + 4 * pair);
        unrolled<kPerTile>([&](auto v) FAIRWAY_INLINE_LAMBDA { total[v] = S::dot16(total[v], n[v], q); });
      });
      unrolled<kPerTile>([&](auto v) FAIRWAY_INLINE_LAMBDA { S::store_i(acc + v * S::kLanes, S::int_of(total[v])); });
    }
  }

  // Tile row of the band -> sums[8 row pairs][128 columns], byte sums of the two rows as 16-bit halves.
  template <int kBits>
  static void decode_tile_row(Words tiles, Words ahead, std::uint32_t* out) {
    typename K::template Sums<kBits> sums;
    for (int t = 0; t < kBandTiles; ++t, out += codec::kTileDim) {
      K::template prefetch<kBits>(ahead + t * 32 * kBits);
      sums.load(tiles + t * 32 * kBits);
      unrolled<kTilePairs>([&](auto pair) FAIRWAY_INLINE_LAMBDA {
        I n[kPerTile];
        sums.template pair_sums<pair>(n);
        unrolled<kPerTile>([&](auto v)
                               FAIRWAY_INLINE_LAMBDA { S::store_i(out + pair * kBandWidth + v * S::kLanes, n[v]); });
      });
    }
  }

  // Where the tile row that will be needed in a while lies; the last ones repeat so the address stays inside the band.
  static constexpr int kAheadTileRows = 4;
  static Words ahead_of(const Band& band, int kt) {
    const int last = band.in / codec::kTileDim - 1;
    return band.words + (kt + kAheadTileRows < last ? kt + kAheadTileRows : last) * band.row_bytes;
  }

  // One row. Not inlined: with all widths in one function GCC keeps the constants of each in registers across the
  // others and spills them.
  template <int kBits>
  [[gnu::noinline]] static void dot_row(const Band& band, Words row, float* y) {
    alignas(64) std::int32_t acc[kBandWidth];
    const float* facts = Row::block_facts(row, band.in);
    for (int block = 0; block < band.in / kBandWidth; ++block) {
      for (int i = 0; i < kBandWidth; i += S::kLanes) S::store_i(acc + i, S::set1_i(0));
      for (int i = 0; i < kBlockTileRows; ++i) {
        const int kt = block * kBlockTileRows + i;
        K::template multiply_tile_row<kBits>(band.words + kt * band.row_bytes, ahead_of(band, kt),
                                             row + kt * codec::kTileDim * 2, acc);
      }
      fold_block(acc, facts[2 * block], y);
    }
  }

  static void dot_rows(const Band& band, Words rows, std::int64_t row_stride, int m, float* y, std::uint8_t*) {
    for (int r = 0; r < m; ++r, rows += row_stride, y += kBandWidth) {
      for (int i = 0; i < kBandWidth; ++i) y[i] = 0.0f;
      switch (band.bits) {
#define FAIRWAY_CASE(b)        \
  case b:                      \
    dot_row<b>(band, rows, y); \
    break;
        FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
      }
      finish_row(rows, band.in, y);
    }
  }

  // acc[kRows][128] += panel of decoded sums times values, in register tiles of kRows x kWide vectors.
  template <int kRows, int kWide>
  static void multiply(const std::uint32_t* panel, int pairs, Words values, std::int64_t row_stride,
                       std::int32_t* acc) {
    for (int v = 0; v < kVectors; v += kWide, panel += kWide * S::kLanes, acc += kWide * S::kLanes) {
      Sum sum[kRows][kWide];
      unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA {
        unrolled<kWide>([&](auto w) FAIRWAY_INLINE_LAMBDA { sum[r][w] = S::sum_of(S::set1_i(0)); });
      });
      const std::uint32_t* line = panel;
      for (int k = 0; k < pairs; ++k, line += kBandWidth) {
        I n[kWide];
        unrolled<kWide>([&](auto w) FAIRWAY_INLINE_LAMBDA { n[w] = S::load_i(line + w * S::kLanes); });
        unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA {
          const I q = S::broadcast_word(values + r * row_stride + 4 * k);
          unrolled<kWide>([&](auto w) FAIRWAY_INLINE_LAMBDA { sum[r][w] = S::dot16(sum[r][w], n[w], q); });
        });
      }
      unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA {
        unrolled<kWide>([&](auto w) FAIRWAY_INLINE_LAMBDA {
          std::int32_t* out = acc + r * kBandWidth + w * S::kLanes;
          S::store_i(out, S::add_i(S::load_i(out), S::int_of(sum[r][w])));
        });
      });
    }
  }

  // Register tiles as in the fp32 panel.
  static constexpr int kTileRows = 6;
  static constexpr int kTileWide = S::kLanes == 16 ? 4 : 2;

  static void multiply_any(const std::uint32_t* panel, int pairs, Words values, std::int64_t stride, int m,
                           std::int32_t* acc) {
    switch (m) {
      case 1:
        return multiply<1, 8>(panel, pairs, values, stride, acc);
      case 2:
        return multiply<2, kTileWide>(panel, pairs, values, stride, acc);
      case 3:
        return multiply<3, kTileWide>(panel, pairs, values, stride, acc);
      case 4:
        return multiply<4, kTileWide>(panel, pairs, values, stride, acc);
      case 5:
        return multiply<5, kTileWide>(panel, pairs, values, stride, acc);
      case 6:
        return multiply<6, kTileWide>(panel, pairs, values, stride, acc);
    }
  }

  using DecodeFn = void (*)(Words tiles, Words ahead, std::uint32_t* out);
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

  // kShare rows at a time share one decode of the band, 0: all rows; kPanelTileRows tile rows are decoded before they
  // are multiplied (4 KiB each). Accumulators exist for one register tile of rows, so either they all fit it or the
  // panel is a whole block of inputs, after which the accumulators are folded.
  template <int kShare, int kPanelTileRows>
  static void dot_panel(const Band& band, Words rows, std::int64_t row_stride, int m, float* y, std::uint8_t* scratch) {
    static_assert(kPanelTileRows == kBlockTileRows || (kShare >= 1 && kShare <= kTileRows));
    const int share = kShare == 0 ? m : kShare;
    for (int first = 0; first < m; first += share) {
      const int count = m - first < share ? m - first : share;
      dot_shared<kPanelTileRows>(band, rows + first * row_stride, row_stride, count, y + first * kBandWidth,
                                 reinterpret_cast<std::uint32_t*>(scratch));
    }
  }

  template <int kPanelTileRows>
  static void dot_shared(const Band& band, Words rows, std::int64_t row_stride, int m, float* y, std::uint32_t* panel) {
    alignas(64) std::int32_t acc[kTileRows * kBandWidth];
    const DecodeFn decode = decoder(band.bits);
    for (int i = 0; i < m * kBandWidth; ++i) y[i] = 0.0f;
    for (int kt = 0; kt < band.in / codec::kTileDim; kt += kPanelTileRows) {
      for (int i = 0; i < kPanelTileRows; ++i) {
        decode(band.words + (kt + i) * band.row_bytes, ahead_of(band, kt + i), panel + i * kTilePairs * kBandWidth);
      }
      const int block = kt / kBlockTileRows;
      const bool block_begins = kt % kBlockTileRows == 0;
      const bool block_ends = (kt + kPanelTileRows) % kBlockTileRows == 0;
      for (int first = 0; first < m; first += kTileRows) {
        const int count = m - first < kTileRows ? m - first : kTileRows;
        const Words tile = rows + first * row_stride;
        for (int i = 0; block_begins && i < count * kBandWidth; i += S::kLanes) S::store_i(acc + i, S::set1_i(0));
        multiply_any(panel, kPanelTileRows * kTilePairs, tile + kt * codec::kTileDim * 2, row_stride, count, acc);
        for (int r = 0; block_ends && r < count; ++r) {
          const float scale = Row::block_facts(tile + r * row_stride, band.in)[2 * block];
          fold_block(acc + r * kBandWidth, scale, y + (first + r) * kBandWidth);
        }
      }
    }
    for (int r = 0; r < m; ++r) finish_row(rows + r * row_stride, band.in, y + r * kBandWidth);
  }

  static constexpr std::uint8_t kMul1Bit = 1u << static_cast<int>(codec::Codebook::kMul1);
  template <I8Layout kLayout>
  static constexpr BandKernel rows_kernel(const BlockOps* ops) {
    using Stored = I8Row<K, kLayout>;
    return {ops, kMul1Bit, 0, Stored::row_bytes, Stored::store_block, dot_rows};
  }
  template <int kShare, int kPanelTileRows>
  static constexpr BandKernel panel_kernel(const BlockOps* ops) {
    constexpr std::size_t kPanelBytes = sizeof(std::uint32_t) * kPanelTileRows * kTilePairs * kBandWidth;
    return {ops, kMul1Bit, kPanelBytes, Row::row_bytes, Row::store_block, dot_panel<kShare, kPanelTileRows>};
  }
};

}  // namespace fairway::kernels
