// Bands of 3inst and mcg with integer activations for AVX2 with AVX-VNNI and GFNI.
//
// Both halves of a product go through the decoder together, as bytes (kPairSums of i16.h). Operations on 16 weights,
// by the ports that take them on Golden Cove (p0 and p1; p1 and p5; all three): window 2 0 1, product 3 0 1, decoder
// 4 5 1, dot product 1 0 0, so 18 in six cycles; one half after the other in words, as pair_words_avx2.h does it, has a
// decoder of 4 2 7. 3inst needs 1 0 3 more for its addend. The decoder of mul1 is 1 0 0, which makes 9 in 3.5 cycles.
#define FAIRWAY_ISA gfni

#include "kernels/trellis_band/i16.h"
#include "kernels/trellis_band/pair_kernels.h"
#include "kernels/trellis_band/states_avx2.h"

namespace fairway::kernels {
namespace gfni {

inline __m256i set1_word(int v) {
  return _mm256_set1_epi16(static_cast<short>(v));
}

// A GFNI matrix: bit i of the result is the parity of the bits of the byte that are set in masks[i].
constexpr long long bit_matrix(const std::uint8_t (&masks)[8]) {
  std::uint64_t rows = 0;
  for (int i = 0; i < 8; ++i) rows |= static_cast<std::uint64_t>(masks[i]) << (8 * (7 - i));
  return static_cast<long long>(rows);
}
// From the upper byte of a half: s and the raw exponent bits x as 2 x + s, and bits 9 and 8 in bits 6 and 5.
constexpr long long kFactorIndex = bit_matrix({0x80, 0x04, 0x08, 0, 0, 0, 0, 0});
constexpr long long kUpperSignificand = bit_matrix({0, 0, 0, 0, 0, 0x01, 0x02, 0});
// From the lower byte: bits 7..3 in bits 4..0.
constexpr long long kLowerSignificand = bit_matrix({0x08, 0x10, 0x20, 0x40, 0x80, 0, 0, 0});
constexpr int kUpperFlip = kSignificandFlip >> 3 & 0xE0, kLowerFlip = kSignificandFlip >> 3 & 0x1F;

template <long long kMatrix, int kFlip>
__m256i mapped_bits(__m256i bytes) {
  return _mm256_gf2p8affine_epi64_epi8(bytes, _mm256_set1_epi64x(kMatrix), kFlip);
}

// +-2^e for 2 x + s, times kWeight.
template <int kWeight>
struct Factors {
  alignas(16) std::int8_t bytes[16];
  constexpr Factors() : bytes{} {
    for (int i = 0; i < 16; ++i) bytes[i] = static_cast<std::int8_t>((i % 2 ? -kWeight : kWeight) << ((i / 2 % 4) ^ 2));
  }
  __m256i load() const { return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes))); }
};
template <int kWeight>
inline constexpr Factors<kWeight> kFactors{};

// kWeight (8 at most) times the codes of sixteen products. kInverted: bit 15 of both halves is inverted.
template <int kWeight, bool kInverted>
[[gnu::always_inline]] inline __m256i pair_sums(__m256i low, __m256i high) {
  const __m256i split =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
  low = _mm256_shuffle_epi8(low, split);
  high = _mm256_shuffle_epi8(high, split);
  // A word holds the same byte of both halves.
  const __m256i lower = _mm256_unpacklo_epi8(low, high), upper = _mm256_unpackhi_epi8(low, high);
  const __m256i significands = _mm256_or_si256(mapped_bits<kUpperSignificand, kUpperFlip>(upper),
                                               mapped_bits<kLowerSignificand, kLowerFlip>(lower));
  const __m256i index = mapped_bits < kFactorIndex, kInverted ? 1 : 0 > (upper);
  return _mm256_maddubs_epi16(significands, _mm256_shuffle_epi8(kFactors<kWeight>.load(), index));
}

template <codec::Codebook kCodebook, int kWeight>
[[gnu::always_inline]] inline __m256i codes_of(__m256i states) {
  if constexpr (kCodebook == codec::Codebook::kMcg) {
    return pair_sums<kWeight, false>(product_low<codec::kMcgMultiplier>(states),
                                     product_high<codec::kMcgMultiplier>(states));
  } else {
    // The carry out of the low half: with bit 15 inverted on both sides, the sum is below the addend in signed order.
    // The high half is inverted as well, so that one table entry fits both.
    constexpr int kLow = (codec::k3instAddend & 0xFFFF) ^ 0x8000, kHigh = (codec::k3instAddend >> 16) ^ 0x8000;
    const __m256i low = _mm256_add_epi16(product_low<codec::k3instMultiplier>(states), set1_word(kLow));
    const __m256i minus_carry = _mm256_cmpgt_epi16(set1_word(kLow), low);
    const __m256i high = _mm256_add_epi16(product_high<codec::k3instMultiplier>(states), set1_word(kHigh));
    return pair_sums<kWeight, true>(low, _mm256_sub_epi16(high, minus_carry));
  }
}

template <codec::Codebook kCodebook>
struct PairSums : WordColumns {
  static constexpr std::uint8_t kCodebooks = kPairBooks;
  using Row = I8Row<PairSums>;
  static constexpr int kLargestValue = kPairSumsLargestValue;
  static constexpr float kCodeStep = kPairSums.step;
  static constexpr float kCodeOffset = kPairSums.offset;

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    [[gnu::always_inline]] void line(__m256i (&c)[2]) const {
      this->template states<kQ>(c);
      for (__m256i& v : c) v = codes_of<kCodebook, 1>(v);
    }
  };
};

template <codec::Codebook kCodebook>
struct PairSumBytes : OneByteColumns {
  static constexpr std::uint8_t kCodebooks = kPairBooks;
  using Row = I8Row<PairSumBytes>;
  static constexpr float kCodeStep = kPairSumBytes.step;
  static constexpr float kCodeOffset = kPairSumBytes.offset;

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    [[gnu::always_inline]] void line(__m256i (&c)[2]) const {
      __m256i next[2];
      this->template states<2 * kQ>(c);
      this->template states<2 * kQ + 1>(next);
      unrolled<2>([&](auto i) FAIRWAY_INLINE_LAMBDA {
        const __m256i bytes = upper_bytes(codes_of<kCodebook, 8>(c[i]), codes_of<kCodebook, 8>(next[i]));
        c[i] = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
      });
    }
  };
};

}  // namespace gfni

constexpr BandKernel kBandI16SingleGfni = PairKernels<gfni::PairSums>::direct<1>(&kBlockOpsAvx2);
constexpr BandKernel kBandI16QuadGfni = PairKernels<gfni::PairSums>::direct<4>(&kBlockOpsAvx2);
constexpr BandKernel kBandI16PanelGfni = PairKernels<gfni::PairSums>::panel<kHalfBandTiles>(&kBlockOpsAvx2);
constexpr BandKernel kBandI16WidePanelGfni = PairKernels<gfni::PairSums>::panel<kBandTiles>(&kBlockOpsAvx2);
constexpr BandKernel kBandI16BytesPanelGfni = PairKernels<gfni::PairSumBytes>::panel<kHalfBandTiles>(&kBlockOpsAvx2);
constexpr BandKernel kBandI16BytesWidePanelGfni = PairKernels<gfni::PairSumBytes>::panel<kBandTiles>(&kBlockOpsAvx2);

}  // namespace fairway::kernels
