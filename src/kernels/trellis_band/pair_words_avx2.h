// The codes of 3inst and mcg (i16.h) for 256-bit code. The including file defines FAIRWAY_ISA before.
#pragma once

#include "kernels/trellis_band/i16.h"
#include "kernels/trellis_band/pair_kernels.h"
#include "kernels/trellis_band/states_avx2.h"

namespace fairway::kernels::FAIRWAY_ISA {

inline __m256i set1_word(int v) {
  return _mm256_set1_epi16(static_cast<short>(v));
}

template <bool kInverted>
struct FactorTable {
  alignas(16) std::uint8_t bytes[16];
  constexpr FactorTable() : bytes{} {
    for (int i = 0; i < 16; ++i) bytes[i] = factor_byte(i, kInverted);
  }
  __m256i load() const { return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes))); }
};
template <bool kInverted>
inline constexpr FactorTable<kInverted> kFactorTable{};

// round(t F / 2^15) of sixteen halves; kInverted: bit 15 is inverted.
template <bool kInverted>
[[gnu::always_inline]] inline __m256i scaled_halves(__m256i half) {
  const __m256i t = _mm256_xor_si256(_mm256_and_si256(half, set1_word(kSignificandMask)), set1_word(kSignificandFlip));
  const __m256i index = _mm256_mulhi_epu16(_mm256_and_si256(half, set1_word(kFactorMask)), set1_word(kFactorSpread));
  return _mm256_mulhrs_epi16(t, _mm256_shuffle_epi8(kFactorTable<kInverted>.load(), index));
}

// Codes of sixteen states.
template <codec::Codebook kCodebook>
[[gnu::always_inline]] inline __m256i pair_words(__m256i states) {
  if constexpr (kCodebook == codec::Codebook::kMcg) {
    return _mm256_add_epi16(scaled_halves<false>(product_low<codec::kMcgMultiplier>(states)),
                            scaled_halves<false>(product_high<codec::kMcgMultiplier>(states)));
  } else {
    // The carry out of the low half: with bit 15 inverted on both sides, the sum is below the addend in signed order.
    constexpr int kLow = codec::k3instAddend & 0xFFFF, kHigh = codec::k3instAddend >> 16;
    const __m256i low = _mm256_add_epi16(product_low<codec::k3instMultiplier>(states), set1_word(kLow ^ 0x8000));
    const __m256i minus_carry = _mm256_cmpgt_epi16(set1_word(kLow ^ 0x8000), low);
    const __m256i high = _mm256_add_epi16(product_high<codec::k3instMultiplier>(states), set1_word(kHigh));
    return _mm256_add_epi16(scaled_halves<true>(low), scaled_halves<false>(_mm256_sub_epi16(high, minus_carry)));
  }
}

template <codec::Codebook kCodebook>
struct PairWords : WordColumns {
  static constexpr std::uint8_t kCodebooks = kPairBooks;
  using Row = I8Row<PairWords>;
  static constexpr int kLargestValue = kPairWordsLargestValue;
  static constexpr float kCodeStep = kPairWords.step;
  static constexpr float kCodeOffset = kPairWords.offset;

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    [[gnu::always_inline]] void line(__m256i (&c)[2]) const {
      this->template states<kQ>(c);
      for (__m256i& v : c) v = pair_words<kCodebook>(v);
    }
  };
};

}  // namespace fairway::kernels::FAIRWAY_ISA
