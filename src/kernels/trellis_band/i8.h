// Bands with int8 activations (mul1 only), for an instruction-set class K: the parts that every one of them shares.
//
// A mul1 value before its final rounding is a * n - 3.453125 with n the sum of the four bytes b0..b3 of the state's
// product. These kernels read n as 2 (avg(b0, b2) + avg(b1, b3)) - 1, where avg rounds up as the byte average
// instructions do: half the byte products, for an error of 0.707 in n, whose deviation is 147.8 (0.48 %; mean 2e-4).
// So a product of a row with a column is 2 a * sum(c q) - (3.453125 + a) * sum(q), c = avg + avg, times the scale of
// the row's 128-input block. sum(c q) of a block is at most 510 * 127 * 128 < 2^23: exact in int32 and in fp32. The
// rest is one fused multiply-add per block in ascending order, so all kernels of this format give the same bits.
//
// K provides: Simd (trait); kLayout; kVectorsPerTile, registers of a row pair of a tile (16 columns); kChains<rows>,
// sums a direct product keeps for each row; Codes<kBits>, with load(tile) and pair<q>(c), the codes of tile rows 2q and
// 2q + 1 in the form that dot(sum, c, values) and dot_at(sum, c, address of values) multiply; natural_order(v), the
// columns of a tile from lane order.
#pragma once

#include <cstring>

#include "codec/trellis.h"
#include "kernels/trellis_band/trellis_band.h"
#include "kernels/trellis_band/unroll.h"

namespace fairway::kernels {

constexpr int kTilePairs = codec::kTileDim / 2;                                       // row pairs of a tile
constexpr float kMul1CodeStep = 2 * codec::kMul1ScaleNumerator / 262144.0f;           // 2 a, a = 1774 * 2^-18
constexpr float kMul1CodeOffset = (905216 + codec::kMul1ScaleNumerator) / 262144.0f;  // 3.453125 + a, exact; not 510 a
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
  using Row = I8Row<K, K::kLayout>;
  using Words = const std::uint8_t*;
  static constexpr int kPerTile = K::kVectorsPerTile;
  static constexpr int kVectors = kBandTiles * kPerTile;

  // y = 2 a y - (3.453125 + a) * (sum of scale * integer sum), and the columns of each tile into natural order.
  static void finish_row(Words row, int in, float* y) {
    const float* facts = Row::block_facts(row, in);
    float sum = 0;
    for (int b = 0; b < in / kBandWidth; ++b) sum = S::fma_scalar(facts[2 * b], facts[2 * b + 1], sum);
    const F offset = S::set1(-(kMul1CodeOffset * sum));
    for (int t = 0; t < kBandTiles; ++t, y += codec::kTileDim) {
      F v[kPerTile];
      for (int i = 0; i < kPerTile; ++i) v[i] = S::fma(S::set1(kMul1CodeStep), S::load(y + i * S::kLanes), offset);
      K::natural_order(v);
      for (int i = 0; i < kPerTile; ++i) S::store(y + i * S::kLanes, v[i]);
    }
  }

  // Prefetches reach one block of inputs ahead, into L2: measured on Emerald Rapids (2026-11-21) 1.2 times the rate of
  // four tile rows ahead into L1, whose fill buffers they used up. After the last block comes the next band.
  static std::int64_t bytes_ahead(const Band& band, int block) {
    const std::int64_t block_bytes = kBlockTileRows * band.row_bytes;
    if (block + 1 < band.in / kBandWidth) return block_bytes;
    return band.next == nullptr ? 0 : band.next - (band.words + block * block_bytes);
  }
  template <int kBits>
  static void prefetch(Words tile) {
    for (int i = 0; i < 32 * kBits; i += 64) S::prefetch_l2(tile + i);
  }

  // --- Direct: the codes of a tile are multiplied by a few rows while they are in registers. ---

  // y[kRows][128] += one block of inputs. Sums stay in registers from tile row to tile row.
  template <int kBits, int kRows>
  static void direct_block(Words tiles, std::int64_t row_bytes, std::int64_t ahead, Words x, std::int64_t row_stride,
                           const float* scales, std::int64_t scale_stride, float* y) {
    constexpr int kChains = K::template kChains<kRows>;
    for (int t = 0; t < kBandTiles; ++t, tiles += 32 * kBits, y += codec::kTileDim) {
      Sum total[kRows][kPerTile][kChains];
      unrolled<kRows * kPerTile * kChains>([&](auto i) FAIRWAY_INLINE_LAMBDA {
        total[i / (kPerTile * kChains)][i / kChains % kPerTile][i % kChains] = S::sum_of(S::set1_i(0));
      });
      Words tile = tiles;
      Words values[kRows];
      unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA { values[r] = x + r * row_stride; });
      for (int i = 0; i < kBlockTileRows; ++i, tile += row_bytes) {
        // One pointer per row in a register: left alone, GCC makes one for every operand and keeps them in memory.
        unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA { asm("" : "+r"(values[r])); });
        prefetch<kBits>(tile + ahead);
        typename K::template Codes<kBits> codes;
        codes.load(tile);
        unrolled<kTilePairs>([&](auto pair) FAIRWAY_INLINE_LAMBDA {
          I c[kPerTile];
          codes.template pair<pair>(c);
          unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA {
            unrolled<kPerTile>([&](auto v) FAIRWAY_INLINE_LAMBDA {
              Sum& sum = total[r][v][pair % kChains];
              sum = K::dot_at(sum, c[v], values[r] + 4 * pair);
            });
          });
        });
        unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA { values[r] += codec::kTileDim * 2; });
      }
      unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA {
        const F scale = S::set1(scales[r * scale_stride]);
        unrolled<kPerTile>([&](auto v) FAIRWAY_INLINE_LAMBDA {
          I sum = S::int_of(total[r][v][0]);
          unrolled<kChains - 1>([&](auto i)
                                    FAIRWAY_INLINE_LAMBDA { sum = S::add_i(sum, S::int_of(total[r][v][i + 1])); });
          float* const out = y + r * kBandWidth + v * S::kLanes;
          S::store(out, S::fma(scale, S::to_float(sum), S::load(out)));
        });
      });
    }
  }

  // Not inlined: with all widths in one function GCC keeps the constants of each in registers across the others and
  // spills them.
  template <int kBits, int kRows>
  [[gnu::noinline]] static void direct_rows(const Band& band, Words rows, std::int64_t row_stride, float* y) {
    for (int i = 0; i < kRows * kBandWidth; i += S::kLanes) S::store(y + i, S::set1(0.0f));
    const float* facts = Row::block_facts(rows, band.in);
    for (int block = 0; block < band.in / kBandWidth; ++block) {
      direct_block<kBits, kRows>(band.words + block * kBlockTileRows * band.row_bytes, band.row_bytes,
                                 bytes_ahead(band, block), rows + block * kBandWidth * 2, row_stride, facts + 2 * block,
                                 row_stride / static_cast<std::int64_t>(sizeof(float)), y);
    }
    for (int r = 0; r < kRows; ++r) finish_row(rows + r * row_stride, band.in, y + r * kBandWidth);
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
  template <int kMost>
  static DirectFn direct_for(int rows, int bits) {
    if constexpr (kMost > 1) {
      if (rows < kMost) return direct_for<kMost - 1>(rows, bits);
    }
    return direct_for_bits<kMost>(bits);
  }

  // At most kShare rows share a decode; the rest is spread evenly, since every pass decodes again.
  template <int kShare>
  static void dot_direct(const Band& band, Words rows, std::int64_t row_stride, int m, float* y, std::uint8_t*) {
    for (int passes = (m + kShare - 1) / kShare; passes > 0; --passes) {
      const int count = (m + passes - 1) / passes;
      direct_for<kShare>(count, band.bits)(band, rows, row_stride, y);
      rows += count * row_stride;
      y += count * kBandWidth;
      m -= count;
    }
  }

  // --- Panel: a block of inputs is decoded once and multiplied by all rows in register tiles. ---

  // Half a band at a time: the 16 KiB of its panel stay in L1 beside rows and results, 32 KiB did not (0.7 times).
  static constexpr int kSliceTiles = kBandTiles / 2;
  static constexpr int kSliceWidth = kSliceTiles * codec::kTileDim;

  // Tile row of a slice -> panel[8 row pairs][64 columns].
  template <int kBits>
  static void decode_tile_row(Words tiles, std::int64_t ahead, std::uint32_t* out) {
    typename K::template Codes<kBits> codes;
    for (int t = 0; t < kSliceTiles; ++t, tiles += 32 * kBits, out += codec::kTileDim) {
      prefetch<kBits>(tiles + ahead);
      codes.load(tiles);
      unrolled<kTilePairs>([&](auto pair) FAIRWAY_INLINE_LAMBDA {
        I c[kPerTile];
        codes.template pair<pair>(c);
        unrolled<kPerTile>([&](auto v)
                               FAIRWAY_INLINE_LAMBDA { S::store_i(out + pair * kSliceWidth + v * S::kLanes, c[v]); });
      });
    }
  }

  // y[kRows][64 of 128] += scales * (panel times values), in register tiles of kRows x kWide vectors.
  template <int kRows, int kWide>
  static void multiply(const std::uint32_t* panel, Words values, std::int64_t row_stride, const float* scales,
                       std::int64_t scale_stride, float* y) {
    for (int v = 0; v < kVectors / 2; v += kWide, panel += kWide * S::kLanes, y += kWide * S::kLanes) {
      Sum sum[kRows][kWide];
      unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA {
        unrolled<kWide>([&](auto w) FAIRWAY_INLINE_LAMBDA { sum[r][w] = S::sum_of(S::set1_i(0)); });
      });
      const std::uint32_t* line = panel;
      for (int k = 0; k < kBandWidth / 2; ++k, line += kSliceWidth) {
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
          S::store(out, S::fma(scale, S::to_float(S::int_of(sum[r][w])), S::load(out)));
        });
      });
    }
  }

  // Register tiles as in the fp32 panel.
  static constexpr int kTileRows = 6;
  static constexpr int kTileWide = S::kLanes == 16 ? 4 : 2;

  template <int kMost>
  static void multiply_any(const std::uint32_t* panel, Words values, std::int64_t row_stride, const float* scales,
                           std::int64_t scale_stride, int m, float* y) {
    for (; m >= kMost; m -= kMost) {
      multiply<kMost, kTileWide>(panel, values, row_stride, scales, scale_stride, y);
      values += kMost * row_stride;
      scales += kMost * scale_stride;
      y += kMost * kBandWidth;
    }
    if constexpr (kMost > 1) {
      if (m > 0) multiply_any<kMost - 1>(panel, values, row_stride, scales, scale_stride, m, y);
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
    const float* facts = Row::block_facts(rows, band.in);
    for (int i = 0; i < m * kBandWidth; i += S::kLanes) S::store(y + i, S::set1(0.0f));
    for (int block = 0; block < band.in / kBandWidth; ++block) {
      for (int slice = 0; slice < kBandTiles / kSliceTiles; ++slice) {
        const Words tiles = band.words + block * kBlockTileRows * band.row_bytes + slice * kSliceTiles * 32 * band.bits;
        for (int i = 0; i < kBlockTileRows; ++i) {
          decode(tiles + i * band.row_bytes, bytes_ahead(band, block), panel + i * kTilePairs * kSliceWidth);
        }
        multiply_any<kTileRows>(panel, rows + block * kBandWidth * 2, row_stride, facts + 2 * block,
                                row_stride / static_cast<std::int64_t>(sizeof(float)), m, y + slice * kSliceWidth);
      }
    }
    for (int r = 0; r < m; ++r) finish_row(rows + r * row_stride, band.in, y + r * kBandWidth);
  }

  static constexpr std::uint8_t kMul1Bit = 1u << static_cast<int>(codec::Codebook::kMul1);
  template <int kShare>
  static constexpr BandKernel direct_kernel(const BlockOps* ops) {
    return {ops, kMul1Bit, 0, Row::row_bytes, Row::store_block, dot_direct<kShare>};
  }
  static constexpr BandKernel panel_kernel(const BlockOps* ops) {
    constexpr std::size_t kPanelBytes = sizeof(std::uint32_t) * kBlockTileRows * kTilePairs * kSliceWidth;
    return {ops, kMul1Bit, kPanelBytes, Row::row_bytes, Row::store_block, dot_panel};
  }
};

}  // namespace fairway::kernels
