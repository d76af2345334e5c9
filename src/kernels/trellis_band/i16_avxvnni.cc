// Bands of 3inst and mcg with integer activations for AVX2 with AVX-VNNI.
#define FAIRWAY_ISA avxvnni

#include "kernels/trellis_band/pair_words_avx2.h"

namespace fairway::kernels {
namespace avxvnni {

template <codec::Codebook kCodebook>
struct PairBytes : OneByteColumns {
  static constexpr std::uint8_t kCodebooks = kPairBooks;
  using Row = I8Row<PairBytes>;
  static constexpr float kCodeStep = kPairBytes.step;
  static constexpr float kCodeOffset = kPairBytes.offset;

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    [[gnu::always_inline]] void words(__m256i (&c)[2]) const {
      this->template states<kQ>(c);
      for (__m256i& v : c) {
        v = _mm256_xor_si256(_mm256_slli_epi16(pair_words<kCodebook>(v), 3), set1_word(0x8000));
      }
    }
    template <int kQ>
    [[gnu::always_inline]] void line(__m256i (&c)[2]) const {
      __m256i next[2];
      words<2 * kQ>(c);
      words<2 * kQ + 1>(next);
      unrolled<2>([&](auto i) FAIRWAY_INLINE_LAMBDA { c[i] = upper_bytes(c[i], next[i]); });
    }
  };
};

}  // namespace avxvnni

constexpr BandKernel kBandI16SingleAvxVnni = PairKernels<avxvnni::PairWords>::direct<1>(&kBlockOpsAvx2);
constexpr BandKernel kBandI16QuadAvxVnni = PairKernels<avxvnni::PairWords>::direct<4>(&kBlockOpsAvx2);
constexpr BandKernel kBandI16PanelAvxVnni = PairKernels<avxvnni::PairWords>::panel<kHalfBandTiles>(&kBlockOpsAvx2);
constexpr BandKernel kBandI16WidePanelAvxVnni = PairKernels<avxvnni::PairWords>::panel<kBandTiles>(&kBlockOpsAvx2);
constexpr BandKernel kBandI16BytesPanelAvxVnni = PairKernels<avxvnni::PairBytes>::panel<kHalfBandTiles>(&kBlockOpsAvx2);
constexpr BandKernel kBandI16BytesWidePanelAvxVnni = PairKernels<avxvnni::PairBytes>::panel<kBandTiles>(&kBlockOpsAvx2);

}  // namespace fairway::kernels
