// Bands with integer activations, for an instruction-set and code class K: rows, codes and what both ways of
// multiplying them (i8_direct.h, i8_panel.h) share.
//
// A kernel reads a weight as an integer code c, value = K::kCodeStep * c - K::kCodeOffset (mul1_codes.h and i16.h say
// which), and a row of x as integers q, |q| <= K::kLargestValue, with one scale per K::kScaleInputs inputs. So a
// product of a row with a column is step * sum(c q) - offset * sum(q), times the scale. The sums of one block are exact
// in int32 and rounded once to fp32; the rest is one fused multiply-add per block in ascending order, so all kernels
// that read the same codes give the same bits.
//
// A tile decodes into lines: a line holds K::kLineInputs inputs of each of its 16 columns, one column per 32-bit lane.
//
// K provides: Simd (trait); Row, how x is prepared (I8Row<K>, with kLargestValue); kScaleInputs; Sum with zero, add and
// fold, which gives the 32-bit lanes of a sum as floats; kCodebooks; kVectorsPerTile, registers of a line;
// Codes<kBits>, with load(tile) and line<q>(c), tile rows from kLineInputs * q on in the form that dot(sum, c, values)
// multiplies, where values are one lane of a prepared row, broadcast; store_values(out, q), which puts one register of
// integers into a prepared row; natural_order(v), the columns of a tile from lane order.
#pragma once

#include <cstring>

#include "codec/trellis.h"
#include "kernels/trellis_band/trellis_band.h"
#include "kernels/trellis_band/unroll.h"

namespace fairway::kernels {

// Sums of integer products.
template <class S>
struct IntegerSums {
  using Sum = typename S::Sum;
  static Sum zero() { return S::sum_of(S::set1_i(0)); }
  static Sum add(Sum a, Sum b) { return S::sum_of(S::add_i(S::int_of(a), S::int_of(b))); }
  static typename S::F fold(Sum sum) { return S::to_float(S::int_of(sum)); }
};

// Bytes of a prepared row per input: a lane of 32 bits holds the inputs of one line.
template <class K>
constexpr int kValueBytes = 4 / K::kLineInputs;
template <class K>
constexpr int kTileLines = codec::kTileDim / K::kLineInputs;

// The largest magnitude of a block: integer maximum of the bit patterns, so NaN wins and reaches the result through the
// scale.
template <class S, int kCount>
float largest_magnitude(const float* x) {
  typename S::I largest = S::set1_i(0);
  for (int i = 0; i < kCount; i += S::kLanes) {
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

constexpr float kTinyBlock = 1e-33f;  // the scale of a smaller block would overflow; it counts as zero

// Prepared row: kValueBytes<K> per input, then per K::kScaleInputs inputs (a divisor of 128) their scale and the sum of
// their integers, as floats.
template <class K>
struct I8Row {
  using S = typename K::Simd;

  static std::size_t row_bytes(int in) {
    return static_cast<std::size_t>(in) * kValueBytes<K> +
           static_cast<std::size_t>(in / K::kScaleInputs) * 2 * sizeof(float);
  }
  static const float* facts(const std::uint8_t* row, int in) {
    return reinterpret_cast<const float*>(row + static_cast<std::int64_t>(in) * kValueBytes<K>);
  }

  static void store_part(const float* x, std::uint8_t* out, float* part_facts) {
    constexpr float kMost = K::kLargestValue;
    const float largest = largest_magnitude<S, K::kScaleInputs>(x);
    const bool tiny = largest < kTinyBlock;
    const float inverse = tiny ? 0.0f : kMost / largest;
    typename S::I sum = S::set1_i(0);
    for (int i = 0; i < K::kScaleInputs; i += S::kLanes) {
      typename S::I q = S::to_int(S::mul(S::load(x + i), S::set1(inverse)));
      q = S::max_i(S::set1_i(-K::kLargestValue), S::min_i(S::set1_i(K::kLargestValue), q));
      sum = S::add_i(sum, q);
      K::store_values(out + i * kValueBytes<K>, q);
    }
    std::int32_t lanes[S::kLanes];
    S::store_i(lanes, sum);
    std::int32_t total = 0;
    for (int i = 0; i < S::kLanes; ++i) total += lanes[i];
    part_facts[0] = tiny ? 0.0f : largest / kMost;
    part_facts[1] = static_cast<float>(total);
  }

  static void store_block(const float* x, std::uint8_t* row, int in, int block) {
    float* const all = reinterpret_cast<float*>(row + static_cast<std::int64_t>(in) * kValueBytes<K>);
    for (int i = block * kBandWidth; i < (block + 1) * kBandWidth; i += K::kScaleInputs, x += K::kScaleInputs) {
      store_part(x, row + i * kValueBytes<K>, all + i / K::kScaleInputs * 2);
    }
  }
};

template <class K>
struct BandI8 {
  using S = typename K::Simd;
  using F = typename S::F;
  using I = typename S::I;
  using Sum = typename K::Sum;
  using Row = typename K::Row;
  using Words = const std::uint8_t*;
  static constexpr int kPerTile = K::kVectorsPerTile;

  static void clear_row(float* y, int tiles) {
    for (int i = 0; i < tiles * codec::kTileDim; i += S::kLanes) S::store(y + i, S::set1(0.0f));
  }

  // y = step * y - offset * (sum of scale * integer sum), and the columns of each tile into natural order.
  static void finish_row(Words row, const Band& band, float* y) {
    const float* facts = Row::facts(row, band.in);
    float sum = 0;
    for (int b = 0; b < band.in / K::kScaleInputs; ++b) sum = S::fma_scalar(facts[2 * b], facts[2 * b + 1], sum);
    const F offset = S::set1(-(K::kCodeOffset * sum));
    for (int t = 0; t < band.tiles; ++t, y += codec::kTileDim) {
      F v[kPerTile];
      for (int i = 0; i < kPerTile; ++i) v[i] = S::fma(S::set1(K::kCodeStep), S::load(y + i * S::kLanes), offset);
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
  [[gnu::always_inline]] static void prefetch(Words tile, int bytes) {
    for (int i = 0; i < bytes; i += 64) S::prefetch_l2(tile + i);
  }
  // The first block of a band of another shape, in `steps` steps.
  static void prefetch_apart(const BandPlace& band, int step, int steps) {
    for (int i = step * kBlockTileRows / steps; i < (step + 1) * kBlockTileRows / steps; ++i) {
      const Words row = band.words + i * band.row_bytes;
      for (std::int64_t at = 0; at < band.part_bytes; at += 64) S::prefetch_l2(row + at);
      prefetch_end(row, band.part_bytes);
    }
  }
  // The last cache line of a tile row, in which no 64 bytes of a tile begin unless the file happens to align them.
  [[gnu::always_inline]] static void prefetch_end(Words row, std::int64_t bytes) { S::prefetch_l2(row + bytes - 1); }
};

}  // namespace fairway::kernels
