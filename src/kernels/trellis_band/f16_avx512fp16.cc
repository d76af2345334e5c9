// Bands of 3inst and mcg for AVX-512 with FP16. Their values are sums of two halves that lie ready in the state's
// product, so one addition decodes 32 weights.
//
// Halves: weights as they are, activations as halves between -1 and 1 with one scale per 128-input block. A lane sums
// the 64 products of a block and column in half precision: random signs leave a relative error near 1e-3, below what
// int8 activations cost.
//
// HalfBytes: weights as one byte, c = 32 * value + 128 rounded, value in -3.97 .. 3.97; activations int8. The error is
// 0.73 % of the deviation 1.244.
#define FAIRWAY_ISA avx512fp16

#include "kernels/trellis_band/pair_kernels.h"
#include "kernels/trellis_band/states_avx512.h"

namespace fairway::kernels {
namespace avx512fp16 {

// Halves of a product masked and flipped into the exponent range 12..15.
inline __m512h half_of(__m512i product) {
  constexpr int kXorOfMasked = 0x6A;  // (a & b) ^ c
  return _mm512_castsi512_ph(
      _mm512_ternarylogic_epi32(product, _mm512_set1_epi32(static_cast<int>(codec::kHalfPairMask)),
                                _mm512_set1_epi32(static_cast<int>(codec::kHalfPairFlip)), kXorOfMasked));
}

// The values of 32 states, rounded once as the format asks.
template <codec::Codebook kCodebook>
__m512h values(__m512i states) {
  const ProductHalves product = pair_products<kCodebook>(states);
  return _mm512_add_ph(half_of(product.low), half_of(product.high));
}

// Prepared row: one half per input, then per block its scale and a zero (there is no offset to correct).
struct HalfRow {
  using S = Simd;
  static std::size_t row_bytes(int in) {
    return static_cast<std::size_t>(in) * sizeof(std::uint16_t) +
           static_cast<std::size_t>(in / kBandWidth) * 2 * sizeof(float);
  }
  static const float* facts(const std::uint8_t* row, int in) {
    return reinterpret_cast<const float*>(row + static_cast<std::int64_t>(in) * sizeof(std::uint16_t));
  }
  static void store_block(const float* x, std::uint8_t* row, int in, int block) {
    const float largest = largest_magnitude<S, kBandWidth>(x);
    const bool tiny = largest < kTinyBlock;
    const __m512 inverse = _mm512_set1_ps(tiny ? 0.0f : 1.0f / largest);
    std::uint8_t* out = row + block * kBandWidth * static_cast<int>(sizeof(std::uint16_t));
    for (int i = 0; i < kBandWidth; i += S::kLanes) {
      const __m256h half = _mm512_cvtxps_ph(_mm512_mul_ps(S::load(x + i), inverse));
      _mm256_storeu_ph(out + i * static_cast<int>(sizeof(std::uint16_t)), half);
    }
    float* const own =
        reinterpret_cast<float*>(row + static_cast<std::int64_t>(in) * sizeof(std::uint16_t)) + 2 * block;
    own[0] = tiny ? 0.0f : largest;
    own[1] = 0.0f;
  }
};

template <codec::Codebook kCodebook>
struct Halves : Columns {
  static constexpr std::uint8_t kCodebooks = kPairBooks;
  static constexpr float kCodeStep = 1.0f;
  static constexpr float kCodeOffset = 0.0f;
  using Row = HalfRow;
  // A multiply-add takes four cycles and a line about four and a half, plus half a cycle per row.
  template <int kRows>
  static constexpr int kChains = kRows == 1 ? 2 : 1;

  struct Sum {
    __m512h lanes;
  };
  static Sum zero() { return {_mm512_setzero_ph()}; }
  static Sum add(Sum a, Sum b) { return {_mm512_add_ph(a.lanes, b.lanes)}; }
  // Both halves of every lane.
  static __m512 fold(Sum sum) {
    const __m512i swapped = _mm512_rol_epi32(_mm512_castph_si512(sum.lanes), 16);
    const __m512i both = _mm512_castph_si512(_mm512_add_ph(sum.lanes, _mm512_castsi512_ph(swapped)));
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both));
  }

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    void line(__m512i (&c)[1]) const {
      c[0] = _mm512_castph_si512(values<kCodebook>(this->template states<kQ>()));
    }
  };

  static Sum dot(Sum sum, __m512i c, __m512i x) {
    return {_mm512_fmadd_ph(_mm512_castsi512_ph(c), _mm512_castsi512_ph(x), sum.lanes)};
  }
  static Sum dot_at(Sum sum, __m512i c, const std::uint8_t* x) { return dot(sum, c, Simd::broadcast_word(x)); }
};

template <codec::Codebook kCodebook>
struct HalfBytes : OneByteColumns {
  static constexpr std::uint8_t kCodebooks = kPairBooks;
  static constexpr float kCodeStep = 1.0f / 32.0f;
  static constexpr float kCodeOffset = 4.0f;
  using Row = I8Row<HalfBytes>;

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    __m512i words() const {
      const __m512h scaled =
          _mm512_fmadd_ph(values<kCodebook>(this->template states<kQ>()), _mm512_set1_ph(static_cast<_Float16>(32.0f)),
                          _mm512_set1_ph(static_cast<_Float16>(128.0f)));
      return _mm512_cvtph_epu16(scaled);
    }
    template <int kQ>
    void line(__m512i (&c)[1]) const {
      c[0] = _mm512_or_si512(words<2 * kQ>(), _mm512_slli_epi16(words<2 * kQ + 1>(), 8));
    }
  };
};

}  // namespace avx512fp16

constexpr BandKernel kBandF16SingleAvx512 = PairKernels<avx512fp16::Halves>::direct<1>(&kBlockOpsAvx512);
constexpr BandKernel kBandF16QuadAvx512 = PairKernels<avx512fp16::Halves>::direct<4>(&kBlockOpsAvx512);
constexpr BandKernel kBandF16PanelAvx512 = PairKernels<avx512fp16::Halves>::panel<kHalfBandTiles>(&kBlockOpsAvx512);
constexpr BandKernel kBandF16WidePanelAvx512 = PairKernels<avx512fp16::Halves>::panel<kBandTiles>(&kBlockOpsAvx512);
constexpr BandKernel kBandF16BytesPanelAvx512 =
    PairKernels<avx512fp16::HalfBytes>::panel<kHalfBandTiles>(&kBlockOpsAvx512);
constexpr BandKernel kBandF16BytesWidePanelAvx512 =
    PairKernels<avx512fp16::HalfBytes>::panel<kBandTiles>(&kBlockOpsAvx512);

}  // namespace fairway::kernels
