// VPDPBUSD on 256-bit registers, for processors with AVX-VNNI and without AVX-512.
#include <immintrin.h>

#include "backend/cpu/int8_loops.h"

namespace fairway::backend {
namespace {

constexpr int kSums = 12;  // at least latency (5) times instructions per cycle (2), and 16 registers hold them

std::uint32_t run(std::int64_t steps) {
  const __m256i ones = _mm256_set1_epi8(1);
  __m256i sums[kSums];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (std::int64_t step = 0; step < steps; ++step) {
    for (__m256i& sum : sums) sum = _mm256_dpbusd_avx_epi32(sum, ones, ones);
  }
  __m256i total = sums[0];
  for (int i = 1; i < kSums; ++i) total = _mm256_add_epi32(total, sums[i]);
  alignas(32) std::uint32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), total);
  return sum_of_lanes(lanes, 8);
}

}  // namespace

const Int8Loop& int8_loop_avxvnni() {
  static constexpr Int8Loop kLoop{"vpdpbusd ymm", 32 * kSums, run};
  return kLoop;
}

}  // namespace fairway::backend
