// States of a tile for 256-bit code, and what the code classes of the files that use them share. The including file
// defines FAIRWAY_ISA, its namespace, before: files compiled for different instruction sets must not share functions.
#pragma once

#include "codec/trellis.h"
#include "kernels/trellis_band/i8.h"
#include "kernels/trellis_band/simd_avx2.h"

namespace fairway::kernels::FAIRWAY_ISA {

// States of a tile, two 16-bit states per 32-bit lane; lane c of the left register is column c, of the right one c + 8.
//
// Rows r and r + 4 of a column lie 16 symbols apart on the stream, that is 16 * kBits bits: whatever the width, both
// windows begin at the same bit of a 16-bit unit. So the units of a column lane (2 * kBits of them, first one on top of
// its word) are paired in planes, plane u = (unit u, unit u + kBits), and one funnel shift of two neighbouring planes
// cuts sixteen windows, with no care for word boundaries. One row over data in L2 runs 1.05 to 1.1 times as fast as
// with windows cut from 32-bit words, eight at a time, and blended (AVX2 code on Emerald Rapids, 2026-11-21).
template <int kBits>
struct States {
  __m256i planes[kBits + 1];  // planes[u + 1] is plane u; plane -1 holds the units before units 0 and kBits

  static __m256i swap_units(__m256i v) {
    return _mm256_shuffle_epi8(
        v, _mm256_broadcastsi128_si256(_mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)));
  }

  // Unit kU of every column lane in the low halves, unit kU + kBits in the high ones.
  template <int kU>
  static __m256i plane(const __m256i (&words)[kBits]) {
    constexpr bool kFirstOnTop = kU % 2 == 0, kSecondOnTop = (kU + kBits) % 2 == 0;
    const __m256i first = words[kU / 2], second = words[(kU + kBits) / 2];
    if constexpr (kFirstOnTop && !kSecondOnTop) {
      return swap_units(_mm256_blend_epi16(second, first, 0xAA));
    } else {
      return _mm256_blend_epi16(kFirstOnTop ? _mm256_srli_epi32(first, 16) : first,
                                kSecondOnTop ? second : _mm256_slli_epi32(second, 16), 0xAA);
    }
  }

  [[gnu::always_inline]] void load(const std::uint8_t* tile) {
    __m256i words[kBits];
    LaneWords<Simd, kBits>::load(tile, words);
    unrolled<kBits>([&](auto u) FAIRWAY_INLINE_LAMBDA { planes[u + 1] = plane<u>(words); });
    // The last unit of a lane precedes the first one of the next lane on the ring: all 16-bit elements move up by one.
    const __m256i last = planes[kBits];
    planes[0] = _mm256_alignr_epi8(last, _mm256_permute2x128_si256(last, last, 1), 14);
  }

  // Windows that end with symbols kP and kP + 16 of each column lane, kP < 16.
  template <int kP>
  [[gnu::always_inline]] __m256i window() const {
    constexpr int kEnd = (kP + 1) * kBits;
    constexpr int kU = (kEnd - 1) / 16;
    constexpr int kShift = 16 * (kU + 1) - kEnd;
    const __m256i last = planes[kU + 1], previous = planes[kU];
    if constexpr (kShift == 0) return last;
    if constexpr (kShift == 8) {  // shuffles have another port than shifts
      const __m128i top = _mm_setr_epi8(1, -1, 3, -1, 5, -1, 7, -1, 9, -1, 11, -1, 13, -1, 15, -1);
      const __m128i bottom = _mm_setr_epi8(-1, 0, -1, 2, -1, 4, -1, 6, -1, 8, -1, 10, -1, 12, -1, 14);
      return _mm256_or_si256(_mm256_shuffle_epi8(last, _mm256_broadcastsi128_si256(top)),
                             _mm256_shuffle_epi8(previous, _mm256_broadcastsi128_si256(bottom)));
    }
    return _mm256_or_si256(_mm256_srli_epi16(last, kShift), _mm256_slli_epi16(previous, 16 - kShift));
  }

  // Tile rows 8 * (kQ / 4) + kQ % 4 and 4 further.
  template <int kQ>
  [[gnu::always_inline]] void states(__m256i (&s)[2]) const {
    constexpr int kP = 8 * (kQ % 4 / 2) + 2 * (kQ / 4) + kQ % 2;
    s[0] = window<kP>();
    s[1] = window<kP + 4>();
  }
};

// The same for a width that is known only at run time: planes built by gathers, windows cut by counts in registers.
template <>
struct States<0> {
  __m256i planes[FAIRWAY_MAX_BITS + 1];
  int bits;

  void set_width(int width) { bits = width; }

  void load(const std::uint8_t* tile) {
    const __m256i lanes = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(bits));
    __m256i words[FAIRWAY_MAX_BITS];
    for (int i = 0; i < bits; ++i) {
      words[i] = _mm256_i32gather_epi32(reinterpret_cast<const int*>(tile + 4 * i), lanes, 4);
    }
    for (int u = 0; u < bits; ++u) {
      const __m256i first = words[u / 2], second = words[(u + bits) / 2];
      planes[u + 1] = _mm256_blend_epi16(u % 2 == 0 ? _mm256_srli_epi32(first, 16) : first,
                                         (u + bits) % 2 == 0 ? second : _mm256_slli_epi32(second, 16), 0xAA);
    }
    const __m256i last = planes[bits];
    planes[0] = _mm256_alignr_epi8(last, _mm256_permute2x128_si256(last, last, 1), 14);
  }

  __m256i window(int p) const {
    const int end = (p + 1) * bits, unit = (end - 1) / 16, shift = 16 * (unit + 1) - end;
    return _mm256_or_si256(_mm256_srl_epi16(planes[unit + 1], _mm_cvtsi32_si128(shift)),
                           _mm256_sll_epi16(planes[unit], _mm_cvtsi32_si128(16 - shift)));
  }

  template <int kQ>
  void states(__m256i (&s)[2]) const {
    constexpr int kP = 8 * (kQ % 4 / 2) + 2 * (kQ / 4) + kQ % 2;
    s[0] = window(kP);
    s[1] = window(kP + 4);
  }
};

// The two 16-bit halves of s * multiplier mod 2^32, s < 2^16.
template <std::uint32_t kMultiplier>
__m256i product_low(__m256i states) {
  return _mm256_mullo_epi16(states, _mm256_set1_epi16(static_cast<short>(kMultiplier & 0xFFFF)));
}
template <std::uint32_t kMultiplier>
__m256i product_high(__m256i states) {
  const __m256i low_factor = _mm256_set1_epi16(static_cast<short>(kMultiplier & 0xFFFF));
  const __m256i high_factor = _mm256_set1_epi16(static_cast<short>(kMultiplier >> 16));
  return _mm256_add_epi16(_mm256_mulhi_epu16(states, low_factor), _mm256_mullo_epi16(states, high_factor));
}

// Of the four bytes b0..b3 of each state's product with the multiplier of mul1: the averages of b0, b2 and of b1, b3.
inline __m256i mul1_averages(__m256i states) {
  return _mm256_avg_epu8(product_low<codec::kMul1Multiplier>(states), product_high<codec::kMul1Multiplier>(states));
}
// kWeight times the sum of the four; 64 * 1020 fits 16 bits.
template <int kWeight>
__m256i mul1_sums(__m256i states) {
  static_assert(kWeight <= 64);
  const __m256i weight = _mm256_set1_epi8(kWeight);
  return _mm256_add_epi16(_mm256_maddubs_epi16(product_low<codec::kMul1Multiplier>(states), weight),
                          _mm256_maddubs_epi16(product_high<codec::kMul1Multiplier>(states), weight));
}

// What the code classes of this instruction set share: two registers of natural columns per tile, lines of two inputs
// (rows r and r + 4 of the tile).
struct Columns : IntegerSums<Simd> {
  using Simd = FAIRWAY_ISA::Simd;
  static constexpr int kVectorsPerTile = 2;
  static constexpr int kLineInputs = 2;
  static constexpr int kScaleInputs = kBandWidth;
  template <int kRows>
  static constexpr int kChains = 1;

  static void natural_order(__m256 (&)[2]) {}

  // Eight inputs q as 16-bit pairs (0, 4), (1, 5), (2, 6), (3, 7).
  static __m128i paired(__m256i q) {
    return _mm_blend_epi16(_mm256_castsi256_si128(q), _mm_slli_epi32(_mm256_extracti128_si256(q, 1), 16), 0xAA);
  }
};

// Codes of 16 bits; sums of products with 16-bit activations.
struct WordColumns : Columns {
  static Simd::Sum dot(Simd::Sum sum, __m256i c, __m256i q) { return Simd::dot16(sum, c, q); }
  static Simd::Sum dot_at(Simd::Sum sum, __m256i c, const std::uint8_t* q) {
    return dot(sum, c, Simd::broadcast_word(q));
  }
  static void store_values(std::uint8_t* out, __m256i q) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), paired(q));
  }
};

#ifdef __AVXVNNI__
// Codes of one or two bytes. The byte product of plain AVX2 saturates and cannot stand in.
struct ByteColumns : Columns {
  static constexpr int kLargestValue = 127;

  static Simd::Sum dot(Simd::Sum sum, __m256i c, __m256i q) {
    return Simd::sum_of(_mm256_dpbusd_avx_epi32(Simd::int_of(sum), c, q));
  }
  static Simd::Sum dot_at(Simd::Sum sum, __m256i c, const std::uint8_t* q) {
    return dot(sum, c, Simd::broadcast_word(q));
  }
};

// Codes of one byte: lines of four inputs. A lane holds the rows r, r + 1, r + 4, r + 5 of its column.
struct OneByteColumns : ByteColumns {
  static constexpr int kLineInputs = 4;
  static constexpr int kScaleInputs = kBandWidth / 2;  // 128 would leave the error of a product above 1 %

  // The line from the upper bytes of the words of two lines of words, which begin with rows r and r + 1.
  static __m256i upper_bytes(__m256i words, __m256i next_words) {
    return _mm256_or_si256(_mm256_srli_epi16(words, 8),
                           _mm256_and_si256(next_words, _mm256_set1_epi16(static_cast<short>(0xFF00))));
  }
  static void store_values(std::uint8_t* out, __m256i q) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_shufflelo_epi16(_mm_packs_epi16(words, words), 0xD8));
  }
};
#endif

}  // namespace fairway::kernels::FAIRWAY_ISA
