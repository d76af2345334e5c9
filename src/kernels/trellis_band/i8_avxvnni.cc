// Bands with integer activations for AVX2 with AVX-VNNI: the dot products of bytes and words of 256 bits.
#define FAIRWAY_ISA avxvnni

#include "kernels/trellis_band/i8_direct.h"
#include "kernels/trellis_band/i8_panel.h"
#include "kernels/trellis_band/mul1_words_avx2.h"

namespace fairway::kernels {
namespace avxvnni {

// Two bytes for every weight, whose sum is its code.
struct Pairs : ByteColumns {
  static constexpr std::uint8_t kCodebooks = kMul1Only;
  using Row = I8Row<Pairs>;
  static constexpr float kCodeStep = kMul1Pairs.step;
  static constexpr float kCodeOffset = kMul1Pairs.offset;

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    void line(__m256i (&c)[2]) const {
      this->template states<kQ>(c);
      for (__m256i& v : c) v = mul1_averages(v);
    }
  };

  // Each byte twice.
  static void store_values(std::uint8_t* out, __m256i q) {
    const __m128i bytes = _mm_and_si128(paired(q), _mm_set1_epi16(0xFF));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_or_si128(bytes, _mm_slli_epi16(bytes, 8)));
  }
};

// One byte for every weight.
struct Bytes : OneByteColumns {
  static constexpr std::uint8_t kCodebooks = kMul1Only;
  using Row = I8Row<Bytes>;
  static constexpr float kCodeStep = kMul1Bytes.step;
  static constexpr float kCodeOffset = kMul1Bytes.offset;

  template <int kBits>
  struct Codes : States<kBits> {
    // The code of a state is the upper byte of 64 times its byte sum.
    template <int kQ>
    void line(__m256i (&c)[2]) const {
      __m256i next[2];
      this->template states<2 * kQ>(c);
      this->template states<2 * kQ + 1>(next);
      unrolled<2>([&](auto i)
                      FAIRWAY_INLINE_LAMBDA { c[i] = upper_bytes(mul1_sums<64>(c[i]), mul1_sums<64>(next[i])); });
    }
  };
};

}  // namespace avxvnni

constexpr BandKernel kBandI8SingleAvxVnni = BandI8Direct<avxvnni::Pairs>::kernel<1>(&kBlockOpsAvx2);
constexpr BandKernel kBandI8QuadAvxVnni = BandI8Direct<avxvnni::Pairs>::kernel<4>(&kBlockOpsAvx2);
constexpr BandKernel kBandWordsPanelAvxVnni = BandI8Panel<avxvnni::Words, kHalfBandTiles>::kernel(&kBlockOpsAvx2);
constexpr BandKernel kBandWordsWidePanelAvxVnni = BandI8Panel<avxvnni::Words, kBandTiles>::kernel(&kBlockOpsAvx2);
constexpr BandKernel kBandBytesPanelAvxVnni = BandI8Panel<avxvnni::Bytes, kHalfBandTiles>::kernel(&kBlockOpsAvx2);
constexpr BandKernel kBandBytesWidePanelAvxVnni = BandI8Panel<avxvnni::Bytes, kBandTiles>::kernel(&kBlockOpsAvx2);

}  // namespace fairway::kernels
