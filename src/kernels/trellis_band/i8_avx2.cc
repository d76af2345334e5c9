// Bands with int8 activations for AVX2.
#define FAIRWAY_ISA avx2

#include "kernels/trellis_band/i8_direct.h"
#include "kernels/trellis_band/i8_panel.h"
#include "kernels/trellis_band/mul1_codes.h"
#include "kernels/trellis_band/states_avx2.h"

namespace fairway::kernels {
namespace avx2 {

// Codes as 16-bit numbers: the byte product instruction of AVX2 saturates, the 16-bit one does not.
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
      unrolled<2>([&](auto i) FAIRWAY_INLINE_LAMBDA {
        const __m256i bytes =
            _mm256_avg_epu8(product_low<codec::kMul1Multiplier>(c[i]), product_high<codec::kMul1Multiplier>(c[i]));
        c[i] = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
      });
    }
  };

  static Simd::Sum dot(Simd::Sum sum, __m256i c, __m256i q) { return Simd::dot16(sum, c, q); }
  static Simd::Sum dot_at(Simd::Sum sum, __m256i c, const std::uint8_t* q) {
    return Simd::dot16(sum, c, Simd::broadcast_word(q));
  }
  static void store_values(std::uint8_t* out, __m256i q) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), paired(q));
  }
};

}  // namespace avx2

constexpr BandKernel kBandI8SingleAvx2 = BandI8Direct<avx2::Pairs>::kernel<1>(&kBlockOpsAvx2);
constexpr BandKernel kBandI8QuadAvx2 = BandI8Direct<avx2::Pairs>::kernel<4>(&kBlockOpsAvx2);
constexpr BandKernel kBandI8PanelAvx2 = BandI8Panel<avx2::Pairs, kHalfBandTiles>::kernel(&kBlockOpsAvx2);
constexpr BandKernel kBandI8WidePanelAvx2 = BandI8Panel<avx2::Pairs, kBandTiles>::kernel(&kBlockOpsAvx2);

}  // namespace fairway::kernels
