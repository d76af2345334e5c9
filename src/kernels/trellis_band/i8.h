// Bands with int8 activations (mul1 only), for an instruction-set class K: rows, codes and what both ways of
// multiplying them (i8_direct.h, i8_panel.h) share.
//
// A mul1 value before its final rounding is a * n - 3.453125 with n the sum of the four bytes b0..b3 of the state's
// product. These kernels read n as 2 c - 1 with the code c = avg(b0, b2) + avg(b1, b3), where avg rounds up as the byte
// average instructions do: half the byte products, for an error of 0.707 in n, whose deviation is 147.8 (0.48 %; mean
// 2e-4). So a product of a row with a column is 2 a * sum(c q) - (3.453125 + a) * sum(q), times the scale of the row's
// 128-input block. sum(c q) of a block is at most 510 * 127 * 128 < 2^23: exact in int32 and in fp32. The rest is one
// fused multiply-add per block in ascending order, so all kernels of this format give the same bits.
//
// Tried and dropped (2026-11-21): n / 4 rounded down, one byte for every weight, makes many rows 1.3 to 1.5 times as
// fast on AVX-512, but its 0.76 % moved the perplexity of the reference window from 33.476 (fp32) to 33.397, out of its
// bound.
//
// A tile decodes into lines: a line holds two inputs of each of its 16 columns, one column per 32-bit lane.
//
// K provides: Simd (trait); kVectorsPerTile, registers of a line; Codes<kBits>, with load(tile) and line<q>(c), tile
// rows 2q and 2q + 1 in the form that dot(sum, c, values) multiplies, where values are one lane of a prepared row,
// broadcast; store_values(out, q), which puts one register of integers into a prepared row; natural_order(v), the
// columns of a tile from lane order.
#pragma once

#include <cstring>

#include "codec/trellis.h"
#include "kernels/trellis_band/trellis_band.h"
#include "kernels/trellis_band/unroll.h"

namespace fairway::kernels {

// a = 1774 * 2^-18 and 3.453125 = -(1024 a + bias) = 905216 * 2^-18, exact; not 510 a.
static_assert(1024 * codec::kMul1ScaleNumerator + codec::kMul1BiasNumerator == -905216 && 905216 == 262144 * 3.453125);
constexpr float kMul1CodeStep = 2 * codec::kMul1ScaleNumerator / 262144.0f;
constexpr float kMul1CodeOffset = (905216 + codec::kMul1ScaleNumerator) / 262144.0f;

constexpr int kValueBytes = 2;  // of a prepared row, per input
constexpr int kTileLines = codec::kTileDim / 2;

// Prepared row: kValueBytes per input, then per block its scale and the sum of its integers, as floats.
template <class K>
struct I8Row {
  using S = typename K::Simd;

  static std::size_t row_bytes(int in) {
    return static_cast<std::size_t>(in) * kValueBytes + static_cast<std::size_t>(in / kBandWidth) * 2 * sizeof(float);
  }
  static const float* block_facts(const std::uint8_t* row, int in) {
    return reinterpret_cast<const float*>(row + static_cast<std::int64_t>(in) * kValueBytes);
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
    std::uint8_t* out = row + block * kBandWidth * kValueBytes;
    typename S::I sum = S::set1_i(0);
    for (int i = 0; i < kBandWidth; i += S::kLanes) {
      typename S::I q = S::to_int(S::mul(S::load(x + i), S::set1(inverse)));
      q = S::max_i(S::set1_i(-127), S::min_i(S::set1_i(127), q));
      sum = S::add_i(sum, q);
      K::store_values(out + i * kValueBytes, q);
    }
    std::int32_t lanes[S::kLanes];
    S::store_i(lanes, sum);
    std::int32_t total = 0;
    for (int i = 0; i < S::kLanes; ++i) total += lanes[i];
    float* facts = reinterpret_cast<float*>(row + static_cast<std::int64_t>(in) * kValueBytes) + 2 * block;
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
  using Row = I8Row<K>;
  using Words = const std::uint8_t*;
  static constexpr int kPerTile = K::kVectorsPerTile;
  static constexpr std::uint8_t kMul1Bit = 1u << static_cast<int>(codec::Codebook::kMul1);

  static void clear_row(float* y, int tiles) {
    for (int i = 0; i < tiles * codec::kTileDim; i += S::kLanes) S::store(y + i, S::set1(0.0f));
  }

  // y = 2 a y - (3.453125 + a) * (sum of scale * integer sum), and the columns of each tile into natural order.
  static void finish_row(Words row, const Band& band, float* y) {
    const float* facts = Row::block_facts(row, band.in);
    float sum = 0;
    for (int b = 0; b < band.in / kBandWidth; ++b) sum = S::fma_scalar(facts[2 * b], facts[2 * b + 1], sum);
    const F offset = S::set1(-(kMul1CodeOffset * sum));
    for (int t = 0; t < band.tiles; ++t, y += codec::kTileDim) {
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
};

}  // namespace fairway::kernels
