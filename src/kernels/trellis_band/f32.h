// Bands with fp32 activations, for a SIMD trait S: tiles are decoded to exact codebook values in a small panel, and the
// panel is multiplied with the rows that share the decode.
//
// Every output has one accumulator that runs over the inputs in ascending order with fused multiply-adds, whatever the
// panel or register tile, so all kernels of this file on all instruction sets give the same bits.
#pragma once

#include "codec/trellis.h"
#include "kernels/trellis_band/trellis_band.h"
#include "kernels/trellis_band/unroll.h"

namespace fairway::kernels {

template <class S>
struct BandF32 {
  using F = typename S::F;
  using I = typename S::I;
  using Words = const std::uint8_t*;
  static constexpr int kHalfVectors = kHalfBandTiles * codec::kTileDim / S::kLanes;

  // 3inst and mcg: a half with exponent field 12..15, held in bits 16..31 of every lane, as a float. The bits below are
  // ignored.
  static F widen_high_half(I v) {
    const I sign = S::and_i(v, S::set1_i(static_cast<std::int32_t>(0x80000000u)));
    const I magnitude = S::template shift_right<3>(S::and_i(v, S::set1_i(0x7FFF0000)));
    return S::as_float(S::or_i(sign, S::add_i(magnitude, S::set1_i(112 << 23))));
  }

  template <codec::Codebook kCodebook>
  static F decode(I state) {
    if constexpr (kCodebook == codec::Codebook::kMul1) {
      const I n = S::byte_sums(S::mul_i(state, S::set1_i(static_cast<std::int32_t>(codec::kMul1Multiplier))));
      // a * n - 3.453125 has at most 21 significant bits: exact, so the conversion is the only rounding.
      constexpr float kUnit = 1.0f / (1 << codec::kMul1FractionBits);
      constexpr float kScale = codec::kMul1ScaleNumerator * kUnit;
      constexpr float kOffset = (1024 * codec::kMul1ScaleNumerator + codec::kMul1BiasNumerator) * kUnit;
      return S::round_to_half(S::fma(S::to_float(n), S::set1(kScale), S::set1(kOffset)));
    } else {
      constexpr bool k3inst = kCodebook == codec::Codebook::k3inst;
      constexpr codec::u32 kMultiplier = k3inst ? codec::k3instMultiplier : codec::kMcgMultiplier;
      I x = S::mul_i(state, S::set1_i(static_cast<std::int32_t>(kMultiplier)));
      if constexpr (k3inst) x = S::add_i(x, S::set1_i(static_cast<std::int32_t>(codec::k3instAddend)));
      x = S::xor_i(S::and_i(x, S::set1_i(static_cast<std::int32_t>(codec::kHalfPairMask))),
                   S::set1_i(static_cast<std::int32_t>(codec::kHalfPairFlip)));
      // Sums of two such halves are exact in fp32.
      return S::round_to_half(S::add(widen_high_half(S::template shift_left<16>(x)), widen_high_half(x)));
    }
  }

  // The window that ends with symbol kP of each lane; words[0] is the word before the lane's first one.
  template <int kBits, int kP>
  static I window(const I (&words)[kBits + 1]) {
    constexpr int kEnd = (kP + 1) * kBits;
    constexpr int kLast = (kEnd - 1) / 32;
    constexpr int kShift = 32 * (kLast + 1) - kEnd;
    I v = S::template shift_right<kShift>(words[kLast + 1]);
    if constexpr (kShift > 16) v = S::or_i(v, S::template shift_left<32 - kShift>(words[kLast]));
    if constexpr (kShift != 16) v = S::and_i(v, S::set1_i(0xFFFF));
    return v;
  }

  template <int kBits, codec::Codebook kCodebook, int kR>
  static void decode_row(const I (&words)[kBits + 1], float* out) {
    constexpr int kP = 8 * (kR % 8 / 2) + kR % 2 + 2 * (kR / 8);  // symbol of row kR, left half, within its lane
    S::store(out + kR * kBandWidth, decode<kCodebook>(window<kBits, kP>(words)));
    S::store(out + kR * kBandWidth + S::kLanes, decode<kCodebook>(window<kBits, kP + 4>(words)));
  }

  // One tile row of the band -> out[16][128]. Columns are in storage order: registers of S::kTiles half tiles.
  template <int kBits, codec::Codebook kCodebook>
  static void decode_tile_row(Words tiles, int count, float* out) {
    for (int t = 0; t < count; t += S::kTiles) {
      const Words tile = tiles + t * 32 * kBits;
      I words[kBits + 1];
      S::template lane_words<kBits>(tile, words);
      unrolled<codec::kTileDim>(
          [&](auto r) FAIRWAY_INLINE_LAMBDA { decode_row<kBits, kCodebook, r>(words, out + t * codec::kTileDim); });
    }
  }

  using DecodeFn = void (*)(Words tiles, int count, float* out);

  template <codec::Codebook kCodebook>
  static DecodeFn decoder(int bits) {
    switch (bits) {
#define FAIRWAY_CASE(b) \
  case b:               \
    return decode_tile_row<b, kCodebook>;
      FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
    }
    return nullptr;
  }
  static DecodeFn decoder(codec::Codebook codebook, int bits) {
    switch (codebook) {
      case codec::Codebook::k3inst:
        return decoder<codec::Codebook::k3inst>(bits);
      case codec::Codebook::kMcg:
        return decoder<codec::Codebook::kMcg>(bits);
      case codec::Codebook::kMul1:
        return decoder<codec::Codebook::kMul1>(bits);
    }
    return nullptr;
  }

  // y[kRows][128] += x[kRows][depth] panel[depth][128], in register tiles of kRows x kWide vectors.
  template <int kRows, int kWide>
  static void multiply(const float* panel, int vectors, int depth, const float* x, std::int64_t ldx, float* y) {
    for (int v = 0; v < vectors; v += kWide, panel += kWide * S::kLanes, y += kWide * S::kLanes) {
      F acc[kRows][kWide];
      unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA {
        unrolled<kWide>([&](auto w) FAIRWAY_INLINE_LAMBDA { acc[r][w] = S::load(y + r * kBandWidth + w * S::kLanes); });
      });
      const float* line = panel;
      for (int k = 0; k < depth; ++k, line += kBandWidth) {
        F b[kWide];
        unrolled<kWide>([&](auto w) FAIRWAY_INLINE_LAMBDA { b[w] = S::load(line + w * S::kLanes); });
        unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA {
          const F a = S::set1(x[r * ldx + k]);
          unrolled<kWide>([&](auto w) FAIRWAY_INLINE_LAMBDA { acc[r][w] = S::fma(a, b[w], acc[r][w]); });
        });
      }
      unrolled<kRows>([&](auto r) FAIRWAY_INLINE_LAMBDA {
        unrolled<kWide>([&](auto w) FAIRWAY_INLINE_LAMBDA { S::store(y + r * kBandWidth + w * S::kLanes, acc[r][w]); });
      });
    }
  }

  // Register tiles: 24 accumulators of 32 registers on AVX-512, 12 of 16 on AVX2; one row uses half a band.
  static constexpr int kTileRows = 6;
  static constexpr int kTileWide = S::kLanes == 16 ? 4 : 2;

  static void multiply_any(const float* panel, int vectors, int depth, const float* x, std::int64_t ldx, int m,
                           float* y) {
    for (; m >= kTileRows; m -= kTileRows, x += kTileRows * ldx, y += kTileRows * kBandWidth) {
      multiply<kTileRows, kTileWide>(panel, vectors, depth, x, ldx, y);
    }
    switch (m) {
      case 1:
        return multiply<1, kHalfVectors>(panel, vectors, depth, x, ldx, y);
      case 2:
        return multiply<2, kTileWide>(panel, vectors, depth, x, ldx, y);
      case 3:
        return multiply<3, kTileWide>(panel, vectors, depth, x, ldx, y);
      case 4:
        return multiply<4, kTileWide>(panel, vectors, depth, x, ldx, y);
      case 5:
        return multiply<5, kTileWide>(panel, vectors, depth, x, ldx, y);
    }
  }

  // kShare rows at a time share one decode of the band, 0: all rows; kPanelTileRows tile rows are decoded before they
  // are multiplied: one while few rows reuse them (8 KiB, stays in L1), more when the register tiles should run long.
  template <int kShare, int kPanelTileRows>
  static void dot(const Band& band, Words rows, std::int64_t row_stride, int m, float* y, std::uint8_t* scratch) {
    const DecodeFn decode_tiles = decoder(band.codebook, band.bits);
    float* panel = reinterpret_cast<float*>(scratch);
    const std::int64_t ldx = row_stride / static_cast<std::int64_t>(sizeof(float));
    const int tile_rows = band.in / codec::kTileDim;
    const int vectors = band.tiles * codec::kTileDim / S::kLanes;
    for (int r = 0; r < m; ++r) {
      for (int v = 0; v < vectors; ++v) S::store(y + r * kBandWidth + v * S::kLanes, S::set1(0.0f));
    }
    const int share = kShare == 0 ? m : kShare;
    for (int first = 0; first < m; first += share) {
      const int count = m - first < share ? m - first : share;
      const float* x = reinterpret_cast<const float*>(rows + first * row_stride);
      for (int kt = 0; kt < tile_rows; kt += kPanelTileRows) {
        const int deep = tile_rows - kt < kPanelTileRows ? tile_rows - kt : kPanelTileRows;
        for (int i = 0; i < deep; ++i) {
          decode_tiles(band.words + (kt + i) * band.row_bytes, band.tiles, panel + i * codec::kTileDim * kBandWidth);
        }
        multiply_any(panel, vectors, deep * codec::kTileDim, x + kt * codec::kTileDim, ldx, count,
                     y + first * kBandWidth);
      }
    }
    if constexpr (S::kTiles == 2) restore_order(y, m, band.tiles);
  }

  // Two tiles share a register: [left 0..7 | right 0..7] [left 8..15 | right 8..15] -> natural column order.
  static void restore_order(float* y, int m, int tiles) {
    for (int r = 0; r < m; ++r, y += kBandWidth) {
      for (int i = 0; i < tiles * codec::kTileDim; i += 2 * S::kLanes) {
        const F a = S::load(y + i);
        const F b = S::load(y + i + S::kLanes);
        S::store(y + i, S::low_halves(a, b));
        S::store(y + i + S::kLanes, S::high_halves(a, b));
      }
    }
  }

  static std::size_t row_bytes(int in) {
    return static_cast<std::size_t>(in) * sizeof(float);
  }

  static void store_block(const float* x, std::uint8_t* row, int, int block) {
    float* out = reinterpret_cast<float*>(row) + block * kBandWidth;
    for (int i = 0; i < kBandWidth; i += S::kLanes) S::store(out + i, S::load(x + i));
  }

  template <int kShare, int kPanelTileRows>
  static constexpr BandKernel kernel(const BlockOps* ops) {
    constexpr std::size_t kPanelBytes = sizeof(float) * kPanelTileRows * codec::kTileDim * kBandWidth;
    return {ops, /*codebooks=*/7, kPanelBytes, row_bytes, store_block, dot<kShare, kPanelTileRows>};
  }
};

}  // namespace fairway::kernels
