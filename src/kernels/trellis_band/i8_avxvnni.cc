// Bands with integer activations for AVX2 with AVX-VNNI: the dot products of bytes and words of 256 bits.
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
// kWeight (64 at most) times the byte sums of states.
template <int kWeight>
__m256i byte_sums(__m256i states) {
  const __m256i weight = _mm256_set1_epi8(kWeight);
  return _mm256_add_epi16(_mm256_maddubs_epi16(low_bytes(states), weight),
                          _mm256_maddubs_epi16(high_bytes(states), weight));
}

// Two bytes for every weight, whose sum is its code.
struct Pairs : ByteColumns {
  static constexpr std::uint8_t kCodebooks = kMul1Bit;
  using Row = I8Row<Pairs>;
  static constexpr float kCodeStep = kMul1Pairs.step;
  static constexpr float kCodeOffset = kMul1Pairs.offset;

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    void line(__m256i (&c)[2]) const {
      this->template states<kQ>(c);
      for (__m256i& v : c) v = _mm256_avg_epu8(low_bytes(v), high_bytes(v));
    }
  };

  // Each byte twice.
  static void store_values(std::uint8_t* out, __m256i q) {
    const __m128i bytes = _mm_and_si128(paired(q), _mm_set1_epi16(0xFF));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_or_si128(bytes, _mm_slli_epi16(bytes, 8)));
  }
};

// The byte sum itself, 16 bits.
struct Words : WordColumns {
  static constexpr std::uint8_t kCodebooks = kMul1Bit;
  using Row = I8Row<Words>;
  static constexpr int kLargestValue = 16383;
  static constexpr float kCodeStep = kMul1Words.step;
  static constexpr float kCodeOffset = kMul1Words.offset;

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    void line(__m256i (&c)[2]) const {
      this->template states<kQ>(c);
      for (__m256i& v : c) v = byte_sums<1>(v);
    }
  };
};

// One byte for every weight.
struct Bytes : ByteColumns {
  static constexpr std::uint8_t kCodebooks = kMul1Bit;
  using Row = I8Row<Bytes>;
  static constexpr int kLineInputs = 4;
  static constexpr int kScaleInputs = kBandWidth / 2;  // 128 would leave the error of a product above 1 %
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
                      FAIRWAY_INLINE_LAMBDA { c[i] = upper_bytes(byte_sums<64>(c[i]), byte_sums<64>(next[i])); });
    }
  };

  static void store_values(std::uint8_t* out, __m256i q) { store_interleaved_bytes(out, q); }
};

}  // namespace avxvnni

constexpr BandKernel kBandI8SingleAvxVnni = BandI8Direct<avxvnni::Pairs>::kernel<1>(&kBlockOpsAvx2);
constexpr BandKernel kBandI8QuadAvxVnni = BandI8Direct<avxvnni::Pairs>::kernel<4>(&kBlockOpsAvx2);
constexpr BandKernel kBandWordsPanelAvxVnni = BandI8Panel<avxvnni::Words, kHalfBandTiles>::kernel(&kBlockOpsAvx2);
constexpr BandKernel kBandWordsWidePanelAvxVnni = BandI8Panel<avxvnni::Words, kBandTiles>::kernel(&kBlockOpsAvx2);
constexpr BandKernel kBandBytesPanelAvxVnni = BandI8Panel<avxvnni::Bytes, kHalfBandTiles>::kernel(&kBlockOpsAvx2);
constexpr BandKernel kBandBytesWidePanelAvxVnni = BandI8Panel<avxvnni::Bytes, kBandTiles>::kernel(&kBlockOpsAvx2);

}  // namespace fairway::kernels
