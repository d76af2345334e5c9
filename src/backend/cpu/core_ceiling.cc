// Chooses the loop, and what every processor has: two loops and the sum of the lanes of the others.
#include "backend/cpu/core_ceiling.h"

#include "backend/cpu/features.h"
#include "backend/cpu/int8_loops.h"

namespace fairway::backend {
namespace {

constexpr int kBaselineBytes = 64;

// As a compiler without any instruction-set option sees it.
std::uint32_t baseline_loop(std::int64_t steps) {
  std::uint8_t ones[kBaselineBytes];
  for (std::uint8_t& one : ones) one = 1;
  std::uint32_t sum = 0;
  for (std::int64_t step = 0; step < steps; ++step) {
    __asm__ volatile("" : : "r"(ones) : "memory");  // or the products of one step would serve them all
    for (const std::uint8_t one : ones) sum += static_cast<std::uint32_t>(one) * static_cast<std::uint32_t>(one);
  }
  return sum;
}

}  // namespace

const Int8Loop& int8_loop(std::uint32_t features) {
  static constexpr Int8Loop kBaseline{"compiled without vector options", kBaselineBytes, baseline_loop};
  if ((features & kCpuAvx512Vnni) != 0) return int8_loop_avx512();
  if ((features & kCpuAvxVnni) != 0) return int8_loop_avxvnni();
  if ((features & kCpuAvx2) != 0) return int8_loop_avx2();
  return kBaseline;
}

std::uint32_t sum_of_lanes(const std::uint32_t* values, int count) {
  std::uint32_t sum = 0;
  for (int i = 0; i < count; ++i) sum += values[i];
  return sum;
}

std::uint64_t dependent_additions(std::int64_t additions) {
  // Both operands in registers: cores since Golden Cove add small constants while renaming, in no time at all.
  std::uint64_t sum = 0, one = 1;
  __asm__ volatile("" : "+r"(one));
  for (std::int64_t i = 0; i < additions; ++i) {
    sum += one;
    __asm__ volatile("" : "+r"(sum));  // keeps the compiler from adding several at once
  }
  return sum;
}

}  // namespace fairway::backend
