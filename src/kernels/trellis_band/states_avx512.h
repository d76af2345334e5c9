// States of a tile for AVX-512 with VBMI, and what the code classes of the files that use them share. The including
// file defines FAIRWAY_ISA, its namespace, before: files compiled for different instruction sets must not share
// functions.
#pragma once

#include "codec/trellis.h"
#include "kernels/trellis_band/i8.h"
#include "kernels/trellis_band/simd_avx512.h"

namespace fairway::kernels::FAIRWAY_ISA {

// How the windows of one tile are cut. A qword lane is a column lane c of the tile (columns c and c + 8). For row pair
// q = j + 4 t (rows 2q, 2q + 1) the four windows of a lane, in 16-bit order, are: column c rows 2q, 2q + 1, column c +
// 8 rows 2q, 2q + 1; they end with symbols 8j + 2t + {1, 2, 5, 6} of the lane (exclusive). A byte permute brings eight
// consecutive stream bytes into each qword, first one on top, and VPMULTISHIFTQB cuts the windows as pairs of bytes.
// As many row pairs as fit one such qword share the permute: j and j + 1 with both t up to 3 bits, both t of one j up
// to 6 bits.
template <int kBits>
struct WindowTables {
  static constexpr int kJs = kBits == 1 ? 4 : kBits <= 3 ? 2 : 1;  // of one permute
  static constexpr int kTs = kBits <= 6 ? 2 : 1;
  static constexpr int kPermutes = 8 / (kJs * kTs);
  static constexpr int kControls = kJs * 2;
  static constexpr int kTileBytes = 32 * kBits;
  static constexpr int kRegisters = (kTileBytes + 63) / 64;

  static constexpr int permute_of(int q) { return q % 4 / kJs + (kTs == 1 ? 4 * (q / 4) : 0); }
  static constexpr int control_of(int q) { return q % kJs + kJs * (q / 4); }

  alignas(64) std::uint8_t source[kPermutes][64];   // tile byte of each destination byte, modulo 64
  alignas(64) std::uint8_t control[kControls][64];  // per j within the permute, and t
  std::uint64_t mask[kPermutes][4];                 // destination bytes that come from each 64-byte part of the tile

  // First of the eight stream bytes of a qword relative to the first one of symbol 8j.
  static constexpr int first_byte(int t) {
    const int bit = (kTs == 2 ? 1 : 2 * t + 1) * kBits - 16;
    return bit >= 0 ? bit / 8 : -((-bit + 7) / 8);
  }

  constexpr WindowTables() : source{}, control{}, mask{} {
    for (int q = 0; q < 8; ++q) {
      const int permute = permute_of(q), t = q / 4;
      for (int lane = 0; lane < 8; ++lane) {
        for (int i = 0; i < 8; ++i) {
          const int first = 4 * kBits * lane + kBits * (q % 4 / kJs * kJs) + first_byte(t);
          const int stream = (first + i + kTileBytes) % kTileBytes;
          const int offset = stream / 4 * 4 + 3 - stream % 4;  // stream bytes are stored reversed inside each word
          const int destination = 8 * lane + 7 - i;
          source[permute][destination] = static_cast<std::uint8_t>(offset % 64);
          mask[permute][offset / 64] |= std::uint64_t{1} << destination;
        }
        for (int window = 0; window < 4; ++window) {
          const int symbol = 8 * (q % kJs) + 2 * t + 4 * (window / 2) + window % 2;
          const int end = (symbol + 1) * kBits - 8 * first_byte(t);
          if (end < 16 || end > 64) throw "a window does not fit its qword";
          std::uint8_t* out = control[control_of(q)] + 8 * lane + 2 * window;
          out[0] = static_cast<std::uint8_t>(64 - end);
          out[1] = static_cast<std::uint8_t>((64 - end + 8) % 64);
        }
      }
    }
  }
};

template <int kBits>
inline constexpr WindowTables<kBits> kWindowTables{};

// States of a tile, two 16-bit states per lane; lane 2c holds column c, lane 2c + 1 column c + 8.
template <int kBits>
struct States {
  using Tables = WindowTables<kBits>;
  static constexpr const Tables& kTables = kWindowTables<kBits>;
  __m512i part[Tables::kRegisters];

  void load(const std::uint8_t* tile) {
#pragma GCC unroll 4
    for (int i = 0; i < Tables::kRegisters; ++i) {
      const bool whole = 64 * (i + 1) <= Tables::kTileBytes;  // odd widths end with half a register
      part[i] = whole ? _mm512_loadu_si512(tile + 64 * i)
                      : _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + 64 * i)));
    }
  }

  template <int kPermute>
  __m512i lane_bytes() const {
    const __m512i source = _mm512_load_si512(kTables.source[kPermute]);
    __m512i v = _mm512_permutexvar_epi8(source, part[0]);
    if constexpr (Tables::kRegisters > 1)
      v = _mm512_mask_permutexvar_epi8(v, kTables.mask[kPermute][1], source, part[1]);
    if constexpr (Tables::kRegisters > 2)
      v = _mm512_mask_permutexvar_epi8(v, kTables.mask[kPermute][2], source, part[2]);
    if constexpr (Tables::kRegisters > 3)
      v = _mm512_mask_permutexvar_epi8(v, kTables.mask[kPermute][3], source, part[3]);
    return v;
  }

  template <int kQ>
  __m512i states() const {
    // Equal permutes of several lines are merged by the compiler.
    return _mm512_multishift_epi64_epi8(_mm512_load_si512(kTables.control[Tables::control_of(kQ)]),
                                        lane_bytes<Tables::permute_of(kQ)>());
  }
};

// The same for a width that is known only at run time: each row pair has its own permute, over all registers that a
// tile of 8 bits needs.
struct RuntimeTables {
  alignas(64) std::uint8_t source[8][64];  // tile byte of each destination byte, modulo 128
  alignas(64) std::uint8_t control[8][64];
  std::uint64_t upper[8];  // destination bytes that come from the second 128 bytes of the tile
  int tile_bytes;

  template <int kBits>
  static constexpr RuntimeTables of() {
    using Fixed = WindowTables<kBits>;
    RuntimeTables tables{};
    tables.tile_bytes = Fixed::kTileBytes;
    for (int q = 0; q < 8; ++q) {
      for (int i = 0; i < 64; ++i) {
        int part = 0;
        while ((kWindowTables<kBits>.mask[Fixed::permute_of(q)][part] >> i & 1) == 0) ++part;
        tables.source[q][i] =
            static_cast<std::uint8_t>(64 * (part % 2) + kWindowTables<kBits>.source[Fixed::permute_of(q)][i]);
        tables.upper[q] |= std::uint64_t{part / 2 != 0} << i;
        tables.control[q][i] = kWindowTables<kBits>.control[Fixed::control_of(q)][i];
      }
    }
    return tables;
  }
};

inline constexpr RuntimeTables kRuntimeTables[] = {
#define FAIRWAY_TABLES(b) RuntimeTables::of<b>(),
    FAIRWAY_FOR_EACH_BITS(FAIRWAY_TABLES)
#undef FAIRWAY_TABLES
};

template <>
struct States<0> {
  const RuntimeTables* tables;
  __m512i part[4];

  void set_width(int bits) { tables = &kRuntimeTables[bits - FAIRWAY_MIN_BITS]; }

  void load(const std::uint8_t* tile) {
    for (int i = 0; i < 4; ++i) {
      const int bytes = tables->tile_bytes - 64 * i;
      const __mmask64 inside = bytes >= 64 ? ~__mmask64{0} : bytes <= 0 ? 0 : (__mmask64{1} << bytes) - 1;
      part[i] = _mm512_maskz_loadu_epi8(inside, tile + 64 * i);
    }
  }

  template <int kQ>
  __m512i states() const {
    const __m512i source = _mm512_load_si512(tables->source[kQ]);
    const __m512i low = _mm512_permutex2var_epi8(part[0], source, part[1]);
    const __m512i high = _mm512_permutex2var_epi8(part[2], source, part[3]);
    return _mm512_multishift_epi64_epi8(_mm512_load_si512(tables->control[kQ]),
                                        _mm512_mask_blend_epi8(tables->upper[kQ], low, high));
  }
};

// The two 16-bit halves of s * multiplier mod 2^32, s < 2^16.
template <std::uint32_t kMultiplier>
__m512i product_low(__m512i states) {
  return _mm512_mullo_epi16(states, _mm512_set1_epi16(static_cast<short>(kMultiplier & 0xFFFF)));
}
template <std::uint32_t kMultiplier>
__m512i product_high(__m512i states) {
  const __m512i low_factor = _mm512_set1_epi16(static_cast<short>(kMultiplier & 0xFFFF));
  const __m512i high_factor = _mm512_set1_epi16(static_cast<short>(kMultiplier >> 16));
  return _mm512_add_epi16(_mm512_mulhi_epu16(states, low_factor), _mm512_mullo_epi16(states, high_factor));
}

// Both halves of what 32 states give in 3inst or mcg: their product with the multiplier, and for 3inst the addend.
struct ProductHalves {
  __m512i low, high;
};
template <codec::Codebook kCodebook>
[[gnu::always_inline]] inline ProductHalves pair_products(__m512i states) {
  if constexpr (kCodebook == codec::Codebook::kMcg) {
    return {product_low<codec::kMcgMultiplier>(states), product_high<codec::kMcgMultiplier>(states)};
  } else {
    constexpr auto kLow = static_cast<short>(codec::k3instAddend & 0xFFFF);
    constexpr auto kHigh = static_cast<short>(codec::k3instAddend >> 16);
    const __m512i low = _mm512_add_epi16(product_low<codec::k3instMultiplier>(states), _mm512_set1_epi16(kLow));
    const __mmask32 carries = _mm512_cmplt_epu16_mask(low, _mm512_set1_epi16(kLow));
    const __m512i addend = _mm512_mask_blend_epi16(carries, _mm512_set1_epi16(kHigh), _mm512_set1_epi16(kHigh + 1));
    return {low, _mm512_add_epi16(product_high<codec::k3instMultiplier>(states), addend)};
  }
}

// Of the four bytes b0..b3 of each state's product with the multiplier of mul1: the averages of b0, b2 and of b1, b3.
inline __m512i mul1_averages(__m512i states) {
  return _mm512_avg_epu8(product_low<codec::kMul1Multiplier>(states), product_high<codec::kMul1Multiplier>(states));
}
// kWeight times the sum of the four; 64 * 1020 fits 16 bits.
template <int kWeight>
__m512i mul1_sums(__m512i states) {
  static_assert(kWeight <= 64);
  const __m512i weight = _mm512_set1_epi8(kWeight);
  return _mm512_add_epi16(_mm512_maddubs_epi16(product_low<codec::kMul1Multiplier>(states), weight),
                          _mm512_maddubs_epi16(product_high<codec::kMul1Multiplier>(states), weight));
}

// What the code classes of this instruction set share: lanes 2c and 2c + 1 of a register are columns c and c + 8; lines
// of two inputs (rows 2q, 2q + 1 of the tile).
struct Columns {
  using Simd = FAIRWAY_ISA::Simd;
  static constexpr int kVectorsPerTile = 1;
  static constexpr int kLineInputs = 2;
  static constexpr int kScaleInputs = kBandWidth;

  static void natural_order(__m512 (&v)[1]) {
    v[0] = _mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15), v[0]);
  }
};

// Codes of 16 bits; sums of products with 16-bit activations.
struct WordColumns : Columns, IntegerSums<Simd> {
  static Simd::Sum dot(Simd::Sum sum, __m512i c, __m512i q) { return Simd::dot16(sum, c, q); }
  // The broadcast belongs to the load. Written out because GCC takes words that several instructions read into general
  // registers, from where every broadcast costs a slot on one of the two vector ports.
  static Simd::Sum dot_at(Simd::Sum sum, __m512i c, const std::uint8_t* q) {
    __m512i total = Simd::int_of(sum);
    asm("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(total) : "v"(c), "m"(*reinterpret_cast<const std::int32_t*>(q)));
    return Simd::sum_of(total);
  }
  static void store_values(std::uint8_t* out, __m512i q) { Simd::store_low16(out, q); }
};

// Codes of one or two bytes.
struct ByteColumns : Columns, IntegerSums<Simd> {
  static constexpr int kLargestValue = 127;

  static Simd::Sum dot(Simd::Sum sum, __m512i c, __m512i q) {
    return Simd::sum_of(_mm512_dpbusd_epi32(Simd::int_of(sum), c, q));
  }
  // Written out as in WordColumns.
  static Simd::Sum dot_at(Simd::Sum sum, __m512i c, const std::uint8_t* q) {
    __m512i total = Simd::int_of(sum);
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(total) : "v"(c), "m"(*reinterpret_cast<const std::int32_t*>(q)));
    return Simd::sum_of(total);
  }
};

// Codes of one byte: lines of four inputs. A lane holds the rows 4q, 4q + 2, 4q + 1, 4q + 3 of its column: the words of
// two row pairs side by side, as they come.
struct OneByteColumns : ByteColumns {
  static constexpr int kLineInputs = 4;
  static constexpr int kScaleInputs = kBandWidth / 2;  // 128 would leave the error of a product above 1 %

  // The line from the upper bytes of the words of row pairs 2q and 2q + 1.
  static __m512i upper_bytes(__m512i words, __m512i next_words) {
    return _mm512_mask_blend_epi8(0xAAAAAAAAAAAAAAAA, _mm512_srli_epi16(words, 8), next_words);
  }
  static void store_values(std::uint8_t* out, __m512i q) {
    const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_shuffle_epi8(_mm512_cvtepi32_epi8(q), order));
  }
};

}  // namespace fairway::kernels::FAIRWAY_ISA
