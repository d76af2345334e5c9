// VPMADDUBSW, VPMADDWD and VPADDD on 256-bit registers: the dot product of bytes before VNNI.
#include <immintrin.h>

#include "backend/cpu/int8_loops.h"

namespace fairway::backend {
namespace {

constexpr int kSums = 8;  // the sums wait one cycle only; what matters is that products of several steps overlap

std::uint32_t run(std::int64_t steps) {
  __m256i ones = _mm256_set1_epi8(1);
  const __m256i wide_ones = _mm256_set1_epi16(1);
  __m256i sums[kSums];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (std::int64_t step = 0; step < steps; ++step) {
    for (__m256i& sum : sums) {
      __asm__ volatile("" : "+x"(ones));  // or the product would be computed once, before the loop
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(ones, ones), wide_ones));
    }
  }
  __m256i total = sums[0];
  for (int i = 1; i < kSums; ++i) total = _mm256_add_epi32(total, sums[i]);
  alignas(32) std::uint32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), total);
  return sum_of_lanes(lanes, 8);
}

}  // namespace

const Int8Loop& int8_loop_avx2() {
  static constexpr Int8Loop kLoop{"vpmaddubsw, vpmaddwd and vpaddd ymm", 32 * kSums, run};
  return kLoop;
}

}  // namespace fairway::backend
