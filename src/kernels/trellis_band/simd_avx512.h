// The SIMD trait of the AVX-512 files: sixteen 32-bit lanes. Include only from *_avx512.cc and *_avx512fp16.cc, which
// may define FAIRWAY_ISA, the namespace, before.
#pragma once

#ifndef FAIRWAY_ISA
#define FAIRWAY_ISA avx512
#endif

// GCC 12 takes the "undefined" pass-through operands inside its own intrinsics for uses of uninitialised variables
// (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstdint>
#include <cstring>

#include "kernels/trellis_band/lane_words.h"

namespace fairway::kernels::FAIRWAY_ISA {

struct Simd {
  using F = __m512;
  using I = __m512i;
  // Integer accumulators of loops: GCC 12 copies and spills them if the loop carries them as __m512i, whose element
  // type is another than that of the instruction.
  using Sum [[gnu::vector_size(64)]] = std::int32_t;
  static constexpr int kLanes = 16;

  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static I load_i(const void* p) { return _mm512_loadu_si512(p); }
  static void store_i(void* p, I v) { _mm512_storeu_si512(p, v); }
  static F set1(float v) { return _mm512_set1_ps(v); }
  static I set1_i(std::int32_t v) { return _mm512_set1_epi32(v); }
  static I set1_i16(std::int16_t v) { return _mm512_set1_epi16(v); }
  static I set1_i8(std::int8_t v) { return _mm512_set1_epi8(v); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static float fma_scalar(float a, float b, float c) {
    return _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
  }
  static I as_int(F v) { return _mm512_castps_si512(v); }
  static F as_float(I v) { return _mm512_castsi512_ps(v); }
  static I to_int(F v) { return _mm512_cvtps_epi32(v); }  // nearest even
  static F to_float(I v) { return _mm512_cvtepi32_ps(v); }
  static F round_to_half(F v) { return _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }
  static I add_i(I a, I b) { return _mm512_add_epi32(a, b); }
  static I sub_i(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I mul_i(I a, I b) { return _mm512_mullo_epi32(a, b); }
  static I and_i(I a, I b) { return _mm512_and_si512(a, b); }
  static I or_i(I a, I b) { return _mm512_or_si512(a, b); }
  static I xor_i(I a, I b) { return _mm512_xor_si512(a, b); }
  static I max_u(I a, I b) { return _mm512_max_epu32(a, b); }
  static I max_i(I a, I b) { return _mm512_max_epi32(a, b); }
  static I min_i(I a, I b) { return _mm512_min_epi32(a, b); }
  template <int kCount>
  static I shift_left(I v) {
    return _mm512_slli_epi32(v, kCount);
  }
  template <int kCount>
  static I shift_right(I v) {
    return _mm512_srli_epi32(v, kCount);
  }
  template <int kCount>
  static I shift_right_signed(I v) {
    return _mm512_srai_epi32(v, kCount);
  }

  // Lane i gets v[i ^ d] + v[i], or v[i ^ d] - v[i] where bit d of i is set: one Hadamard stage inside a register.
  template <int kDistance>
  static F butterfly(F v) {
    F partner;
    if constexpr (kDistance == 1) partner = _mm512_permute_ps(v, 0xB1);
    if constexpr (kDistance == 2) partner = _mm512_permute_ps(v, 0x4E);
    if constexpr (kDistance == 4) partner = _mm512_shuffle_f32x4(v, v, 0xB1);
    if constexpr (kDistance == 8) partner = _mm512_shuffle_f32x4(v, v, 0x4E);
    constexpr __mmask16 kNegative = kDistance == 1   ? 0xAAAA
                                    : kDistance == 2 ? 0xCCCC
                                    : kDistance == 4 ? 0xF0F0
                                                     : 0xFF00;
    return _mm512_mask_sub_ps(_mm512_add_ps(partner, v), kNegative, partner, v);
  }

  // Low 16 bits of every lane, in order.
  static void store_low16(void* p, I v) { _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(v)); }

  static std::uint32_t load_word(const std::uint8_t* p) {
    std::uint32_t v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  // Written out because GCC takes a function that only prefetches for one without effects and drops the calls.
  static void prefetch_l2(const std::uint8_t* p) { asm volatile("prefetcht1 %0" : : "m"(*p)); }
  static I broadcast_word(const std::uint8_t* p) { return set1_i(static_cast<std::int32_t>(load_word(p))); }

  static constexpr int kTiles = 2;  // tiles side by side in one register: lanes 0..7 the left one, 8..15 the right one

  static F low_halves(F a, F b) { return _mm512_shuffle_f32x4(a, b, 0x44); }
  static F high_halves(F a, F b) { return _mm512_shuffle_f32x4(a, b, 0xEE); }

  // words[1 + i]: word i of every column lane of two adjacent tiles; words[0]: the word that precedes a lane's first
  // one on the ring, which is the last word of lane c - 1 of the same tile, for lane 0 of lane 7.
  template <int kBits>
  static void lane_words(const std::uint8_t* tiles, I (&words)[kBits + 1]) {
    __m256i left[kBits], right[kBits];
    LaneWords<Simd, kBits>::load(tiles, left);
    LaneWords<Simd, kBits>::load(tiles + 32 * kBits, right);
    unrolled<kBits>([&](auto i) FAIRWAY_INLINE_LAMBDA {
      words[i + 1] = _mm512_inserti64x4(_mm512_castsi256_si512(left[i]), right[i], 1);
    });
    words[0] =
        _mm512_permutexvar_epi32(_mm512_setr_epi32(7, 0, 1, 2, 3, 4, 5, 6, 15, 8, 9, 10, 11, 12, 13, 14), words[kBits]);
  }

  // Sum of the four bytes of every lane.
  static I byte_sums(I v) { return _mm512_dpbusd_epi32(_mm512_setzero_si512(), v, _mm512_set1_epi8(1)); }
  static Sum sum_of(I v) { return reinterpret_cast<Sum>(v); }
  static I int_of(Sum v) { return reinterpret_cast<I>(v); }
  // acc + the sum of products of the two signed 16-bit halves.
  static Sum dot16(Sum acc, I a, I b) { return sum_of(_mm512_dpwssd_epi32(int_of(acc), a, b)); }
};

}  // namespace fairway::kernels::FAIRWAY_ISA
