// Bands with int8 activations for AVX-512 with VBMI and VNNI.
#define FAIRWAY_ISA avx512

#include "kernels/trellis_band/i8_direct.h"
#include "kernels/trellis_band/i8_panel.h"
#include "kernels/trellis_band/mul1_codes.h"
#include "kernels/trellis_band/states_avx512.h"

namespace fairway::kernels {
namespace avx512 {

// The four bytes of a state's product.
inline __m512i low_bytes(__m512i states) {
  return product_low<codec::kMul1Multiplier>(states);
}
inline __m512i high_bytes(__m512i states) {
  return product_high<codec::kMul1Multiplier>(states);
}

// Two bytes for every weight, whose sum is its code.
struct Pairs : ByteColumns {
  static constexpr std::uint8_t kCodebooks = kMul1Bit;
  using Row = I8Row<Pairs>;
  static constexpr int kLineInputs = 2;
  static constexpr int kScaleInputs = kBandWidth;
  static constexpr float kCodeStep = kMul1Pairs.step;
  static constexpr float kCodeOffset = kMul1Pairs.offset;
  // A byte dot product takes five cycles and a line about three and a half, plus half a cycle per row.
  template <int kRows>
  static constexpr int kChains = kRows == 1   ? 4
                                 : kRows == 2 ? 2
                                              : 1;

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    void line(__m512i (&c)[1]) const {
      const __m512i s = this->template states<kQ>();
      c[0] = _mm512_avg_epu8(low_bytes(s), high_bytes(s));
    }
  };

  // Each byte twice.
  static void store_values(std::uint8_t* out, __m512i q) {
    const __m512i byte = _mm512_and_si512(q, _mm512_set1_epi32(0xFF));
    Simd::store_low16(out, _mm512_or_si512(byte, _mm512_slli_epi32(byte, 8)));
  }
};

// The byte sum itself, 16 bits.
struct Words : Columns, IntegerSums<Simd> {
  static constexpr std::uint8_t kCodebooks = kMul1Bit;
  using Row = I8Row<Words>;
  static constexpr int kLineInputs = 2;
  static constexpr int kScaleInputs = kBandWidth;
  static constexpr int kLargestValue = 16383;
  static constexpr float kCodeStep = kMul1Words.step;
  static constexpr float kCodeOffset = kMul1Words.offset;

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    void line(__m512i (&c)[1]) const {
      const __m512i s = this->template states<kQ>();
      const __m512i one = _mm512_set1_epi8(1);
      c[0] = _mm512_add_epi16(_mm512_maddubs_epi16(low_bytes(s), one), _mm512_maddubs_epi16(high_bytes(s), one));
    }
  };

  static Simd::Sum dot(Simd::Sum sum, __m512i c, __m512i q) { return Simd::dot16(sum, c, q); }
  static void store_values(std::uint8_t* out, __m512i q) { Simd::store_low16(out, q); }
};

// One byte for every weight. A lane holds the rows 4q, 4q + 2, 4q + 1, 4q + 3 of its column: the words of two row pairs
// side by side, as they come.
struct Bytes : ByteColumns {
  static constexpr std::uint8_t kCodebooks = kMul1Bit;
  using Row = I8Row<Bytes>;
  static constexpr int kLineInputs = 4;
  static constexpr int kScaleInputs = kBandWidth / 2;  // 128 would leave the error of a product above 1 %
  static constexpr float kCodeStep = kMul1Bytes.step;
  static constexpr float kCodeOffset = kMul1Bytes.offset;

  template <int kBits>
  struct Codes : States<kBits> {
    // 64 times the byte sum of every state: 64 * 1020 fits 16 bits.
    template <int kQ>
    __m512i sums() const {
      const __m512i s = this->template states<kQ>();
      const __m512i weight = _mm512_set1_epi8(64);
      return _mm512_add_epi16(_mm512_maddubs_epi16(low_bytes(s), weight), _mm512_maddubs_epi16(high_bytes(s), weight));
    }
    template <int kQ>
    void line(__m512i (&c)[1]) const {
      const __m512i low = _mm512_srli_epi16(sums<2 * kQ>(), 8);
      c[0] = _mm512_mask_blend_epi8(0xAAAAAAAAAAAAAAAA, low, sums<2 * kQ + 1>());
    }
  };

  static void store_values(std::uint8_t* out, __m512i q) { store_interleaved_bytes(out, q); }
};

}  // namespace avx512

constexpr BandKernel kBandI8SingleAvx512 = BandI8Direct<avx512::Pairs>::kernel<1>(&kBlockOpsAvx512);
constexpr BandKernel kBandI8QuadAvx512 = BandI8Direct<avx512::Pairs>::kernel<4>(&kBlockOpsAvx512);
constexpr BandKernel kBandI8RuntimeAvx512 = BandI8Direct<avx512::Pairs>::kernel<4, true>(&kBlockOpsAvx512);
constexpr BandKernel kBandWordsPanelAvx512 = BandI8Panel<avx512::Words, kHalfBandTiles>::kernel(&kBlockOpsAvx512);
constexpr BandKernel kBandWordsWidePanelAvx512 = BandI8Panel<avx512::Words, kBandTiles>::kernel(&kBlockOpsAvx512);
constexpr BandKernel kBandBytesPanelAvx512 = BandI8Panel<avx512::Bytes, kHalfBandTiles>::kernel(&kBlockOpsAvx512);
constexpr BandKernel kBandBytesWidePanelAvx512 = BandI8Panel<avx512::Bytes, kBandTiles>::kernel(&kBlockOpsAvx512);

}  // namespace fairway::kernels
