// VPDPBUSD on 512-bit registers.
#include <immintrin.h>

#include "backend/cpu/int8_loops.h"

namespace fairway::backend {
namespace {

// Five cycles of latency and two instructions a cycle (Intel's optimisation manual) ask for 10 sums at least.
constexpr int kSums = 16;

std::uint32_t run(std::int64_t steps) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sums[kSums];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  for (std::int64_t step = 0; step < steps; ++step) {
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, ones, ones);
  }
  __m512i total = sums[0];
  for (int i = 1; i < kSums; ++i) total = _mm512_add_epi32(total, sums[i]);
  alignas(64) std::uint32_t lanes[16];
  _mm512_store_si512(lanes, total);
  return sum_of_lanes(lanes, 16);
}

}  // namespace

const Int8Loop& int8_loop_avx512() {
  static constexpr Int8Loop kLoop{"vpdpbusd zmm", 64 * kSums, run};
  return kLoop;
}

}  // namespace fairway::backend
