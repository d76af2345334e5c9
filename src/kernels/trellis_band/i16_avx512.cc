// Bands of 3inst and mcg with integer activations for AVX-512 with VBMI and VNNI.
#define FAIRWAY_ISA avx512

#include "kernels/trellis_band/i16.h"
#include "kernels/trellis_band/pair_kernels.h"
#include "kernels/trellis_band/states_avx512.h"

namespace fairway::kernels {
namespace avx512 {

inline __m512i set1_word(int v) {
  return _mm512_set1_epi16(static_cast<short>(v));
}

// (a & mask) ^ flip.
inline __m512i masked(__m512i a, int mask, int flip) {
  return _mm512_ternarylogic_epi32(a, set1_word(mask), set1_word(flip), 0x6A);
}

// The six bits from the exponent's to the sign pick the factor's byte; those between them do not matter.
struct FactorTables {
  alignas(64) std::uint8_t factor[64];
  alignas(64) std::uint8_t control[64];  // both bytes of a word: its bits 10 and up

  constexpr FactorTables() : factor{}, control{} {
    for (int i = 0; i < 64; ++i) {
      factor[i] = factor_byte(2 * (i % 4) + i / 32, false);
      control[i] = static_cast<std::uint8_t>(i % 8 / 2 * 16 + 10);
    }
  }
};
inline constexpr FactorTables kFactors{};

// round(t F / 2^15) of 32 halves.
[[gnu::always_inline]] inline __m512i scaled_halves(__m512i half) {
  const __m512i index = _mm512_multishift_epi64_epi8(_mm512_load_si512(kFactors.control), half);
  const __m512i factor = _mm512_permutexvar_epi8(index, _mm512_load_si512(kFactors.factor));
  return _mm512_mulhrs_epi16(masked(half, kSignificandMask, kSignificandFlip), factor);
}

// Codes of 32 states.
template <codec::Codebook kCodebook>
[[gnu::always_inline]] inline __m512i pair_words(__m512i states) {
  const ProductHalves product = pair_products<kCodebook>(states);
  return _mm512_add_epi16(scaled_halves(product.low), scaled_halves(product.high));
}

template <codec::Codebook kCodebook>
struct PairWords : WordColumns {
  static constexpr std::uint8_t kCodebooks = kPairBooks;
  using Row = I8Row<PairWords>;
  static constexpr int kLargestValue = kPairWordsLargestValue;
  static constexpr float kCodeStep = kPairWords.step;
  static constexpr float kCodeOffset = kPairWords.offset;
  template <int kRows>
  static constexpr int kChains = kRows == 1 ? 2 : 1;  // a word dot product takes five cycles and a line about nine

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    [[gnu::always_inline]] void line(__m512i (&c)[1]) const {
      c[0] = pair_words<kCodebook>(this->template states<kQ>());
    }
  };
};

template <codec::Codebook kCodebook>
struct PairBytes : OneByteColumns {
  static constexpr std::uint8_t kCodebooks = kPairBooks;
  using Row = I8Row<PairBytes>;
  static constexpr float kCodeStep = kPairBytes.step;
  static constexpr float kCodeOffset = kPairBytes.offset;

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    [[gnu::always_inline]] __m512i word() const {
      return _mm512_xor_si512(_mm512_slli_epi16(pair_words<kCodebook>(this->template states<kQ>()), 3),
                              set1_word(0x8000));
    }
    template <int kQ>
    [[gnu::always_inline]] void line(__m512i (&c)[1]) const {
      c[0] = upper_bytes(word<2 * kQ>(), word<2 * kQ + 1>());
    }
  };
};

}  // namespace avx512

constexpr BandKernel kBandI16SingleAvx512 = PairKernels<avx512::PairWords>::direct<1>(&kBlockOpsAvx512);
constexpr BandKernel kBandI16QuadAvx512 = PairKernels<avx512::PairWords>::direct<4>(&kBlockOpsAvx512);
constexpr BandKernel kBandI16PanelAvx512 = PairKernels<avx512::PairWords>::panel<kHalfBandTiles>(&kBlockOpsAvx512);
constexpr BandKernel kBandI16WidePanelAvx512 = PairKernels<avx512::PairWords>::panel<kBandTiles>(&kBlockOpsAvx512);
constexpr BandKernel kBandI16BytesPanelAvx512 = PairKernels<avx512::PairBytes>::panel<kHalfBandTiles>(&kBlockOpsAvx512);
constexpr BandKernel kBandI16BytesWidePanelAvx512 = PairKernels<avx512::PairBytes>::panel<kBandTiles>(&kBlockOpsAvx512);

}  // namespace fairway::kernels
