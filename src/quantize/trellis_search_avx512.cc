// The search of trellis_search.h with AVX-512 F, BW, DQ and VL: 16 states at a time.
#if defined(__x86_64__)

// GCC 12 takes the "undefined" pass-through operands inside its own intrinsics for uses of uninitialised variables
// (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "codec/bits.inc"
#include "quantize/trellis_search.h"

namespace fairway::quantize {
namespace search_avx512 {

struct Simd {
  static constexpr int kLanes = 16;
  using Vector = __m512;

  static Vector infinity() { return _mm512_set1_ps(__builtin_inff()); }
  static Vector load(const float* from) { return _mm512_load_ps(from); }
  static void store(float* to, Vector a) { _mm512_store_ps(to, a); }

  template <int kCount>
  static Vector spread(const float* from) {
    if constexpr (kCount == 1) {
      return _mm512_set1_ps(*from);
    } else if constexpr (kCount == 2) {
      return _mm512_castpd_ps(
          _mm512_broadcastsd_pd(_mm_loadl_pd(_mm_setzero_pd(), reinterpret_cast<const double*>(from))));
    } else if constexpr (kCount == 4) {
      return _mm512_broadcast_f32x4(_mm_load_ps(from));
    } else {
      static_assert(kCount == 8);
      return _mm512_broadcast_f32x8(_mm256_load_ps(from));
    }
  }

  template <int kBits>
  static Vector natural(Vector a) {
    if constexpr (predecessors(kBits, kLanes) == 1) {
      return a;
    } else {
      alignas(64) static constexpr LaneOrder<kBits, kLanes> kOrder;
      return _mm512_permutexvar_ps(_mm512_load_si512(kOrder.lanes), a);
    }
  }

  static Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  static Vector minimum(Vector a, Vector b) { return _mm512_min_ps(a, b); }
  static unsigned less(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
};

#include "quantize/trellis_search_simd.h"

}  // namespace search_avx512

const SearchKernel kAvx512Search = {"avx512", search_avx512::Simd::kLanes, search_avx512::kBodies};

}  // namespace fairway::quantize

#endif
