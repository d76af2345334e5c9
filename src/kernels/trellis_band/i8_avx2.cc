// Bands with integer activations for AVX2.
#define FAIRWAY_ISA avx2

#include "kernels/trellis_band/i8_direct.h"
#include "kernels/trellis_band/i8_panel.h"
#include "kernels/trellis_band/mul1_words_avx2.h"

namespace fairway::kernels {
namespace avx2 {

// Byte averages added up.
struct Pairs : WordColumns {
  static constexpr std::uint8_t kCodebooks = kMul1Only;
  using Row = I8Row<Pairs>;
  static constexpr int kLargestValue = 127;
  static constexpr float kCodeStep = kMul1Pairs.step;
  static constexpr float kCodeOffset = kMul1Pairs.offset;

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    void line(__m256i (&c)[2]) const {
      this->template states<kQ>(c);
      for (__m256i& v : c) v = _mm256_maddubs_epi16(mul1_averages(v), _mm256_set1_epi8(1));
    }
  };
};

}  // namespace avx2

constexpr BandKernel kBandI8SingleAvx2 = BandI8Direct<avx2::Pairs>::kernel<1>(&kBlockOpsAvx2);
constexpr BandKernel kBandI8QuadAvx2 = BandI8Direct<avx2::Pairs>::kernel<4>(&kBlockOpsAvx2);
constexpr BandKernel kBandI8RuntimeAvx2 = BandI8Direct<avx2::Pairs>::kernel<4, true>(&kBlockOpsAvx2);
constexpr BandKernel kBandWordsPanelAvx2 = BandI8Panel<avx2::Words, kHalfBandTiles>::kernel(&kBlockOpsAvx2);
constexpr BandKernel kBandWordsWidePanelAvx2 = BandI8Panel<avx2::Words, kBandTiles>::kernel(&kBlockOpsAvx2);

}  // namespace fairway::kernels
