// Bands with int8 activations for AVX2.
#include "kernels/trellis_band/i8_direct.h"
#include "kernels/trellis_band/i8_panel.h"
#include "kernels/trellis_band/mul1_codes.h"
#include "kernels/trellis_band/simd_avx2.h"

namespace fairway::kernels {
namespace avx2 {

// Codes of two 16-bit states per lane. With s < 2^16, s * multiplier mod 2^32 has the low half mullo(s, low) and
// the high half mulhi(s, low) + mullo(s, high).
inline __m256i state_pair_codes(__m256i states) {
  const __m256i low_factor = _mm256_set1_epi16(static_cast<short>(codec::kMul1Multiplier & 0xFFFF));
  const __m256i high_factor = _mm256_set1_epi16(static_cast<short>(codec::kMul1Multiplier >> 16));
  const __m256i low = _mm256_mullo_epi16(states, low_factor);
  const __m256i high =
      _mm256_add_epi16(_mm256_mulhi_epu16(states, low_factor), _mm256_mullo_epi16(states, high_factor));
  return _mm256_maddubs_epi16(_mm256_avg_epu8(low, high), _mm256_set1_epi8(1));
}

struct I8 : IntegerSums<Simd> {
  using Simd = avx2::Simd;
  using Row = I8Row<I8>;
  static constexpr std::uint8_t kCodebooks = kMul1Bit;
  static constexpr int kLineInputs = 2;
  static constexpr int kScaleInputs = kBandWidth;
  static constexpr int kLargestValue = 127;
  static constexpr float kCodeStep = kMul1Pairs.step;
  static constexpr float kCodeOffset = kMul1Pairs.offset;
  static constexpr int kVectorsPerTile = 2;  // columns 0..7 and 8..15
  template <int kRows>
  static constexpr int kChains = 1;

  // Column lanes of a tile as words; windows are cut with constant shifts. words[0] precedes the lane's first word.
  template <int kBits>
  struct Codes {
    __m256i words[kBits + 1];

    void load(const std::uint8_t* tile) { Simd::lane_words<kBits>(tile, words); }

    // The window that ends with symbol kP in bits 0..15 (kUp = 0) or 16..31 (kUp = 16); the other bits are garbage.
    template <int kP, int kUp>
    __m256i window() const {
      constexpr int kEnd = (kP + 1) * kBits;
      constexpr int kLast = (kEnd - 1) / 32;
      constexpr int kShift = 32 * (kLast + 1) - kEnd - kUp;  // to the right
      const __m256i last = words[kLast + 1];
      const __m256i v = kShift >= 0 ? _mm256_srli_epi32(last, kShift >= 0 ? kShift : 0)
                                    : _mm256_slli_epi32(last, kShift < 0 ? -kShift : 0);
      if constexpr (kShift + kUp <= 16) return v;
      return _mm256_or_si256(v, _mm256_slli_epi32(words[kLast], 32 - kShift));
    }

    template <int kQ>
    void line(__m256i (&c)[2]) const {
      constexpr int kP = 8 * (kQ % 4) + 2 * (kQ / 4);
      const __m256i even_left = window<kP, 0>(), odd_left = window<kP + 1, 16>();
      const __m256i even_right = window<kP + 4, 0>(), odd_right = window<kP + 5, 16>();
      c[0] = state_pair_codes(_mm256_blend_epi16(even_left, odd_left, 0xAA));
      c[1] = state_pair_codes(_mm256_blend_epi16(even_right, odd_right, 0xAA));
    }
  };

  static Simd::Sum dot(Simd::Sum sum, __m256i c, __m256i q) { return Simd::dot16(sum, c, q); }
  static Simd::Sum dot_at(Simd::Sum sum, __m256i c, const std::uint8_t* q) {
    return Simd::dot16(sum, c, Simd::broadcast_word(q));
  }

  static void store_values(std::uint8_t* out, __m256i q) { Simd::store_low16(out, q); }
  static void natural_order(__m256 (&)[2]) {}
};

}  // namespace avx2

constexpr BandKernel kBandI8SingleAvx2 = BandI8Direct<avx2::I8>::kernel<1>(&kBlockOpsAvx2);
constexpr BandKernel kBandI8QuadAvx2 = BandI8Direct<avx2::I8>::kernel<4>(&kBlockOpsAvx2);
constexpr BandKernel kBandI8PanelAvx2 = BandI8Panel<avx2::I8, kHalfBandTiles>::kernel(&kBlockOpsAvx2);
constexpr BandKernel kBandI8WidePanelAvx2 = BandI8Panel<avx2::I8, kBandTiles>::kernel(&kBlockOpsAvx2);

}  // namespace fairway::kernels
