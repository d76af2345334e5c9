// Bands with int8 activations for AVX2 with AVX-VNNI: the byte dot product of 256 bits.
#define FAIRWAY_ISA avxvnni

#include "kernels/trellis_band/i8_direct.h"
#include "kernels/trellis_band/i8_panel.h"
#include "kernels/trellis_band/mul1_codes.h"
#include "kernels/trellis_band/states_avx2.h"

namespace fairway::kernels {
namespace avxvnni {

// The four bytes of a state's product.
inline __m256i low_bytes(__m256i states) {
  return product_low<codec::kMul1Multiplier>(states);
}
inline __m256i high_bytes(__m256i states) {
  return product_high<codec::kMul1Multiplier>(states);
}

// Two bytes for every weight, whose sum is its code.
struct Pairs : Columns {
  static constexpr std::uint8_t kCodebooks = kMul1Bit;
  using Row = I8Row<Pairs>;
  static constexpr int kLargestValue = 127;
  static constexpr float kCodeStep = kMul1Pairs.step;
  static constexpr float kCodeOffset = kMul1Pairs.offset;

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    void line(__m256i (&c)[2]) const {
      this->template states<kQ>(c);
      unrolled<2>([&](auto i) FAIRWAY_INLINE_LAMBDA { c[i] = _mm256_avg_epu8(low_bytes(c[i]), high_bytes(c[i])); });
    }
  };

  static Simd::Sum dot(Simd::Sum sum, __m256i c, __m256i q) {
    return Simd::sum_of(_mm256_dpbusd_avx_epi32(Simd::int_of(sum), c, q));
  }
  static Simd::Sum dot_at(Simd::Sum sum, __m256i c, const std::uint8_t* q) {
    return dot(sum, c, Simd::broadcast_word(q));
  }
  // Each byte twice.
  static void store_values(std::uint8_t* out, __m256i q) {
    const __m128i bytes = _mm_and_si128(paired(q), _mm_set1_epi16(0xFF));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_or_si128(bytes, _mm_slli_epi16(bytes, 8)));
  }
};

}  // namespace avxvnni

constexpr BandKernel kBandI8SingleAvxVnni = BandI8Direct<avxvnni::Pairs>::kernel<1>(&kBlockOpsAvx2);
constexpr BandKernel kBandI8QuadAvxVnni = BandI8Direct<avxvnni::Pairs>::kernel<4>(&kBlockOpsAvx2);
constexpr BandKernel kBandI8PanelAvxVnni = BandI8Panel<avxvnni::Pairs, kHalfBandTiles>::kernel(&kBlockOpsAvx2);
constexpr BandKernel kBandI8WidePanelAvxVnni = BandI8Panel<avxvnni::Pairs, kBandTiles>::kernel(&kBlockOpsAvx2);

}  // namespace fairway::kernels
