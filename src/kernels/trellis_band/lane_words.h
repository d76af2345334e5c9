// Transposes the words of one tile from column lanes (kBits words each) into kBits registers of eight lanes, with AVX2
// instructions. Include only from instruction-set files, behind their <immintrin.h>.
#pragma once

#include <cstdint>

#include "kernels/trellis_band/unroll.h"

namespace fairway::kernels {

// Tag: a type of the including file's instruction set, so that each set has its own copy. Reads exactly the tile.
template <class Tag, int kBits>
struct LaneWords {
  static __m256i load8(const std::uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

  // Words first .. first + 3 of every lane.
  static void four(const std::uint8_t* tile, int first, __m256i (&out)[4]) {
    const auto lanes = [&](int lane) FAIRWAY_INLINE_LAMBDA {  // lane and lane + 4
      const std::uint8_t* p = tile + 4 * (lane * kBits + first);
      const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
      const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * kBits));
      return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    };
    const __m256i a = lanes(0), b = lanes(1), c = lanes(2), d = lanes(3);
    const __m256i ab_low = _mm256_unpacklo_epi32(a, b), ab_high = _mm256_unpackhi_epi32(a, b);
    const __m256i cd_low = _mm256_unpacklo_epi32(c, d), cd_high = _mm256_unpackhi_epi32(c, d);
    out[0] = _mm256_unpacklo_epi64(ab_low, cd_low);
    out[1] = _mm256_unpackhi_epi64(ab_low, cd_low);
    out[2] = _mm256_unpacklo_epi64(ab_high, cd_high);
    out[3] = _mm256_unpackhi_epi64(ab_high, cd_high);
  }

  // Word i of lane c is word 3c + i of the tile: as 3 and 8 have no common factor, the eight words of one i lie in
  // different lanes of the three registers, so blends collect them and one permute sorts them.
  static void three(const std::uint8_t* tile, __m256i* out) {
    const __m256i a = load8(tile), b = load8(tile + 32), c = load8(tile + 64);
    // Lanes of a, b, c that hold i = 0: words 0 3 6 | 9 12 15 | 18 21.
    const __m256i v0 = _mm256_blend_epi32(_mm256_blend_epi32(a, b, 0x92), c, 0x24);
    const __m256i v1 = _mm256_blend_epi32(_mm256_blend_epi32(a, b, 0x24), c, 0x49);
    const __m256i v2 = _mm256_blend_epi32(_mm256_blend_epi32(a, b, 0x49), c, 0x92);
    out[0] = _mm256_permutevar8x32_epi32(v0, _mm256_setr_epi32(0, 3, 6, 1, 4, 7, 2, 5));
    out[1] = _mm256_permutevar8x32_epi32(v1, _mm256_setr_epi32(1, 4, 7, 2, 5, 0, 3, 6));
    out[2] = _mm256_permutevar8x32_epi32(v2, _mm256_setr_epi32(2, 5, 0, 3, 6, 1, 4, 7));
  }

  static void two(const std::uint8_t* tile, __m256i* out) {
    const __m256 a = _mm256_castsi256_ps(load8(tile)), b = _mm256_castsi256_ps(load8(tile + 32));
    out[0] = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88)), 0xD8);
    out[1] = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xDD)), 0xD8);
  }

  static void load(const std::uint8_t* tile, __m256i* out) {
    if constexpr (kBits == 1) {
      out[0] = load8(tile);
    } else if constexpr (kBits == 2) {
      two(tile, out);
    } else if constexpr (kBits == 3) {
      three(tile, out);
    } else {
      // Two overlapping groups of four words cover 4 to 8 words a lane.
      __m256i group[4];
      four(tile, 0, group);
      unrolled<4>([&](auto i) FAIRWAY_INLINE_LAMBDA { out[i] = group[i]; });
      if constexpr (kBits > 4) {
        four(tile, kBits - 4, group);
        unrolled<kBits - 4>([&](auto i) FAIRWAY_INLINE_LAMBDA { out[4 + i] = group[8 - kBits + i]; });
      }
    }
  }
};

}  // namespace fairway::kernels
