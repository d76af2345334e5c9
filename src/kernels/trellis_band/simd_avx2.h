// The SIMD trait of the AVX2 files: eight 32-bit lanes. Include only from *_avx2.cc and *_avxvnni.cc, which may define
// FAIRWAY_ISA, the namespace, before.
#pragma once

#ifndef FAIRWAY_ISA
#define FAIRWAY_ISA avx2
#endif

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/trellis_band/lane_words.h"

namespace fairway::kernels::FAIRWAY_ISA {

struct Simd {
  using F = __m256;
  using I = __m256i;
  // Integer accumulators of loops: GCC 12 copies and spills them if the loop carries them as __m256i, whose element
  // type is another than that of the instruction.
  using Sum [[gnu::vector_size(32)]] = std::int32_t;
  static constexpr int kLanes = 8;

  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static I load_i(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static void store_i(void* p, I v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  static F set1(float v) { return _mm256_set1_ps(v); }
  static I set1_i(std::int32_t v) { return _mm256_set1_epi32(v); }
  static I set1_i16(std::int16_t v) { return _mm256_set1_epi16(v); }
  static I set1_i8(std::int8_t v) { return _mm256_set1_epi8(v); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static float fma_scalar(float a, float b, float c) {
    return _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
  }
  static I as_int(F v) { return _mm256_castps_si256(v); }
  static F as_float(I v) { return _mm256_castsi256_ps(v); }
  static I to_int(F v) { return _mm256_cvtps_epi32(v); }  // nearest even
  static F to_float(I v) { return _mm256_cvtepi32_ps(v); }
  static F round_to_half(F v) { return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }
  static I add_i(I a, I b) { return _mm256_add_epi32(a, b); }
  static I sub_i(I a, I b) { return _mm256_sub_epi32(a, b); }
  static I mul_i(I a, I b) { return _mm256_mullo_epi32(a, b); }
  static I and_i(I a, I b) { return _mm256_and_si256(a, b); }
  static I or_i(I a, I b) { return _mm256_or_si256(a, b); }
  static I xor_i(I a, I b) { return _mm256_xor_si256(a, b); }
  static I max_u(I a, I b) { return _mm256_max_epu32(a, b); }
  static I max_i(I a, I b) { return _mm256_max_epi32(a, b); }
  static I min_i(I a, I b) { return _mm256_min_epi32(a, b); }
  template <int kCount>
  static I shift_left(I v) {
    return _mm256_slli_epi32(v, kCount);
  }
  template <int kCount>
  static I shift_right(I v) {
    return _mm256_srli_epi32(v, kCount);
  }
  template <int kCount>
  static I shift_right_signed(I v) {
    return _mm256_srai_epi32(v, kCount);
  }

  // Lane i gets v[i ^ d] + v[i], or v[i ^ d] - v[i] where bit d of i is set: one Hadamard stage inside a register.
  template <int kDistance>
  static F butterfly(F v) {
    F partner;
    if constexpr (kDistance == 1) partner = _mm256_permute_ps(v, 0xB1);
    if constexpr (kDistance == 2) partner = _mm256_permute_ps(v, 0x4E);
    if constexpr (kDistance == 4) partner = _mm256_permute2f128_ps(v, v, 1);
    alignas(32) static constexpr std::uint32_t kSigns[8] = {
        0,
        (1 & kDistance) ? 0x80000000u : 0,
        (2 & kDistance) ? 0x80000000u : 0,
        (3 & kDistance) ? 0x80000000u : 0,
        (4 & kDistance) ? 0x80000000u : 0,
        (5 & kDistance) ? 0x80000000u : 0,
        (6 & kDistance) ? 0x80000000u : 0,
        (7 & kDistance) ? 0x80000000u : 0,
    };
    return add(partner, as_float(xor_i(as_int(v), load_i(kSigns))));
  }

  // Low 16 bits of every lane, in order.
  static void store_low16(void* p, I v) {
    const I low = _mm256_and_si256(v, _mm256_set1_epi32(0xFFFF));
    const I packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x88);
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }

  static std::uint32_t load_word(const std::uint8_t* p) {
    std::uint32_t v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  // Written out because GCC takes a function that only prefetches for one without effects and drops the calls.
  static void prefetch_l2(const std::uint8_t* p) { asm volatile("prefetcht1 %0" : : "m"(*p)); }
  static I broadcast_word(const std::uint8_t* p) { return set1_i(static_cast<std::int32_t>(load_word(p))); }

  static constexpr int kTiles = 1;  // tiles side by side in one register: lane c is column lane c of the tile

  // words[1 + i]: word i of every column lane of a tile; words[0]: the word that precedes a lane's first one on the
  // ring, which is the last word of lane c - 1, for lane 0 of lane 7.
  template <int kBits>
  static void lane_words(const std::uint8_t* tile, I (&words)[kBits + 1]) {
    LaneWords<Simd, kBits>::load(tile, words + 1);
    words[0] = _mm256_permutevar8x32_epi32(words[kBits], _mm256_setr_epi32(7, 0, 1, 2, 3, 4, 5, 6));
  }

  // Sum of the four bytes of every lane.
  static I byte_sums(I v) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(v, _mm256_set1_epi8(1)), _mm256_set1_epi16(1));
  }
  static Sum sum_of(I v) { return reinterpret_cast<Sum>(v); }
  static I int_of(Sum v) { return reinterpret_cast<I>(v); }
  // acc + the sum of products of the two signed 16-bit halves.
  static Sum dot16(Sum acc, I a, I b) {
#ifdef __AVXVNNI__
    return sum_of(_mm256_dpwssd_avx_epi32(int_of(acc), a, b));
#else
    return sum_of(_mm256_add_epi32(int_of(acc), _mm256_madd_epi16(a, b)));
#endif
  }
};

}  // namespace fairway::kernels::FAIRWAY_ISA
