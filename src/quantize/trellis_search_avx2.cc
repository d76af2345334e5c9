// The search of trellis_search.h with AVX2 and FMA: 8 states at a time.
#if defined(__x86_64__)

#include <immintrin.h>

#include "codec/bits.inc"
#include "quantize/trellis_search.h"

namespace fairway::quantize {
namespace search_avx2 {

struct Simd {
  static constexpr int kLanes = 8;
  using Vector = __m256;

  static Vector infinity() { return _mm256_set1_ps(__builtin_inff()); }
  static Vector load(const float* from) { return _mm256_load_ps(from); }
  static void store(float* to, Vector a) { _mm256_store_ps(to, a); }

  template <int kCount>
  static Vector spread(const float* from) {
    if constexpr (kCount == 1) {
      return _mm256_broadcast_ss(from);
    } else if constexpr (kCount == 2) {
      return _mm256_castpd_ps(_mm256_broadcast_sd(reinterpret_cast<const double*>(from)));
    } else {
      static_assert(kCount == 4);
      return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(from));
    }
  }

  template <int kBits>
  static Vector natural(Vector a) {
    if constexpr (predecessors(kBits, kLanes) == 1) {
      return a;
    } else {
      alignas(32) static constexpr LaneOrder<kBits, kLanes> kOrder;
      return _mm256_permutevar8x32_ps(a, _mm256_load_si256(reinterpret_cast<const __m256i*>(kOrder.lanes)));
    }
  }

  static Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  static Vector minimum(Vector a, Vector b) { return _mm256_min_ps(a, b); }
  static unsigned less(Vector a, Vector b) {
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)));
  }
};

#include "quantize/trellis_search_simd.h"

}  // namespace search_avx2

const SearchKernel kAvx2Search = {"avx2", search_avx2::Simd::kLanes, search_avx2::kBodies};

}  // namespace fairway::quantize

#endif
