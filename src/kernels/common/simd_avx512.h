// The vector operations of the dense and attention kernels, on top of those of the trellis kernels, for AVX-512 F, BW,
// DQ and VL. Only for *_avx512.cc.
#pragma once

#include <cstdint>

#include "kernels/common/matrix.h"
#include "kernels/trellis_band/simd_avx512.h"

namespace fairway::kernels {

// Every function is a member of this type, so that no symbol of an AVX-512 file can stand in for a baseline one.
// "tail" loads and stores touch the first n of kLanes elements only (0 <= n < kLanes); the other lanes read as zero.
struct SimdAvx512 : avx512::Simd {
  using Vec = F;
  static constexpr int kRows = 8;     // rows of the largest register tile: 8 x 3 dot products or 8 x 2 vectors
  static constexpr int kDotCols = 3;  // 24 accumulators, 3 weights, 1 input of 32 registers

#define FAIRWAY_SIMD [[gnu::always_inline]] static inline
  // Keeps a value in its register: without it GCC 12 folds the load into every use of the value, and the load ports
  // become the bottleneck (8 x 3 tile: 24 loads instead of 8 for 24 multiply-adds).
  FAIRWAY_SIMD void pin(Vec& a) {
    __asm__("" : "+v"(a));
  }
  FAIRWAY_SIMD Vec zero() {
    return _mm512_setzero_ps();
  }
  FAIRWAY_SIMD __mmask16 first(int n) {
    return static_cast<__mmask16>((1u << n) - 1u);
  }
  FAIRWAY_SIMD Vec load_tail(const float* p, int n) {
    return _mm512_maskz_loadu_ps(first(n), p);
  }
  FAIRWAY_SIMD void store_tail(float* p, Vec a, int n) {
    _mm512_mask_storeu_ps(p, first(n), a);
  }
  // The first n lanes of a, the others from b (0 <= n <= kLanes).
  FAIRWAY_SIMD Vec blend_first(Vec a, Vec b, int n) {
    return _mm512_mask_mov_ps(b, static_cast<__mmask16>((1u << n) - 1u), a);
  }
  // p[0], p[stride], ..., p[15 * stride], for strides below 2^31 / 16.
  FAIRWAY_SIMD Vec gather(const float* p, std::int64_t stride) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_i32gather_ps(_mm512_mullo_epi32(lane, _mm512_set1_epi32(static_cast<int>(stride))), p, 4);
  }

  // Lane sums of four vectors. The order of additions inside a sum does not depend on the other three.
  FAIRWAY_SIMD void sum4(Vec a, Vec b, Vec c, Vec d, float* out) {
    const __m256 ab = _mm256_hadd_ps(fold(a), fold(b)), cd = _mm256_hadd_ps(fold(c), fold(d));
    const __m256 all = _mm256_hadd_ps(ab, cd);
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
  }
  FAIRWAY_SIMD __m256 fold(Vec a) {
    return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  }
  FAIRWAY_SIMD float first_lane(Vec a) {
    return _mm512_cvtss_f32(a);
  }
  FAIRWAY_SIMD float reduce_max(Vec a) {
    return _mm512_reduce_max_ps(a);
  }

  // kLanes stored weights of type T, at any byte alignment, as floats.
  template <DenseType T>
  FAIRWAY_SIMD Vec load_weights(const std::uint8_t* p) {
    if constexpr (T == DenseType::kF32) {
      return _mm512_loadu_ps(p);
    } else {
      return widen<T>(_mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(p)));
    }
  }
  template <DenseType T>
  FAIRWAY_SIMD Vec load_weights_tail(const std::uint8_t* p, int n) {
    if constexpr (T == DenseType::kF32) {
      return _mm512_maskz_loadu_ps(first(n), p);
    } else {
      return widen<T>(_mm256_maskz_loadu_epi16(first(n), p));
    }
  }
  template <DenseType T>
  FAIRWAY_SIMD Vec widen(__m256i halves) {
    if constexpr (T == DenseType::kF16) {
      return _mm512_cvtph_ps(halves);
    } else {
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
    }
  }
#undef FAIRWAY_SIMD
};

}  // namespace fairway::kernels
