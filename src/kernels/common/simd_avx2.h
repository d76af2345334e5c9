// The vector operations of the dense and attention kernels, on top of those of the trellis kernels, for AVX2, FMA and
// F16C. Only for *_avx2.cc.
#pragma once

#include <cstdint>

#include "kernels/common/matrix.h"
#include "kernels/trellis_band/simd_avx2.h"

namespace fairway::kernels {

// Every function is a member of this type, so that no symbol of an AVX2 file can stand in for a baseline one.
// "tail" loads and stores touch the first n of kLanes elements only (0 <= n < kLanes); the other lanes read as zero.
struct SimdAvx2 : avx2::Simd {
  using Vec = F;
  static constexpr int kRows = 4;     // rows of the largest register tile: 4 x 3 dot products or 4 x 2 vectors
  static constexpr int kDotCols = 3;  // 12 accumulators, 3 weights, 1 input: all 16 registers

#define FAIRWAY_SIMD [[gnu::always_inline]] static inline
  // Keeps a value in its register: without it GCC 12 folds the load into every use of the value, and the load ports
  // become the bottleneck (8 x 3 tile: 24 loads instead of 8 for 24 multiply-adds).
  FAIRWAY_SIMD void pin(Vec& a) {
    __asm__("" : "+x"(a));
  }
  FAIRWAY_SIMD Vec zero() {
    return _mm256_setzero_ps();
  }
  FAIRWAY_SIMD __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  FAIRWAY_SIMD Vec load_tail(const float* p, int n) {
    return _mm256_maskload_ps(p, first(n));
  }
  FAIRWAY_SIMD void store_tail(float* p, Vec a, int n) {
    _mm256_maskstore_ps(p, first(n), a);
  }
  // The first n lanes of a, the others from b (0 <= n <= kLanes).
  FAIRWAY_SIMD Vec blend_first(Vec a, Vec b, int n) {
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(first(n)));
  }
  // p[0], p[stride], ..., p[7 * stride], for strides below 2^31 / 8.
  FAIRWAY_SIMD Vec gather(const float* p, std::int64_t stride) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_i32gather_ps(p, _mm256_mullo_epi32(lane, _mm256_set1_epi32(static_cast<int>(stride))), 4);
  }

  // Lane sums of four vectors. The order of additions inside a sum does not depend on the other three.
  FAIRWAY_SIMD void sum4(Vec a, Vec b, Vec c, Vec d, float* out) {
    const __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
  }
  FAIRWAY_SIMD float first_lane(Vec a) {
    return _mm256_cvtss_f32(a);
  }
  FAIRWAY_SIMD float reduce_max(Vec a) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }

  // kLanes stored weights of type T, at any byte alignment, as floats.
  template <DenseType T>
  FAIRWAY_SIMD Vec load_weights(const std::uint8_t* p) {
    if constexpr (T == DenseType::kF32) {
      return _mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(p)));
    } else {
      return widen<T>(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(p)));
    }
  }
  template <DenseType T>
  FAIRWAY_SIMD Vec load_weights_tail(const std::uint8_t* p, int n) {
    alignas(32) std::uint8_t padded[32] = {};  // AVX2 has no masked load of 16-bit elements
    __builtin_memcpy(padded, p, static_cast<unsigned>(n) * (T == DenseType::kF32 ? 4u : 2u));
    return load_weights<T>(padded);
  }
  template <DenseType T>
  FAIRWAY_SIMD Vec widen(__m128i halves) {
    if constexpr (T == DenseType::kF16) {
      return _mm256_cvtph_ps(halves);
    } else {
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
    }
  }
#undef FAIRWAY_SIMD
};

}  // namespace fairway::kernels
