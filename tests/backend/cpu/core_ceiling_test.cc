// The loops behind the ceilings do the work that they are timed for.
#include "backend/cpu/core_ceiling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "backend/cpu/features.h"
#include "backend/cpu/int8_loops.h"

namespace fairway::backend {
namespace {

// Every loop that this machine can enter.
std::vector<const Int8Loop*> usable_loops() {
  const std::uint32_t features = cpu_info().features;
  std::vector<const Int8Loop*> loops = {&int8_loop(kCpuBaseline)};
  if ((features & kCpuAvx2) != 0) loops.push_back(&int8_loop_avx2());
  if ((features & kCpuAvxVnni) != 0) loops.push_back(&int8_loop_avxvnni());
  if ((features & kCpuAvx512Vnni) != 0) loops.push_back(&int8_loop_avx512());
  return loops;
}

TEST(CoreCeiling, EveryProductIsComputed) {
  for (const Int8Loop* loop : usable_loops()) {
    for (const std::int64_t steps : {0, 1, 7, 1000}) {
      EXPECT_EQ(loop->run(steps), static_cast<std::uint32_t>(loop->macs_per_step * steps)) << loop->instruction;
    }
  }
}

double seconds_of(const Int8Loop& loop, std::int64_t steps) {
  double best = 1e9;
  for (int i = 0; i < 20; ++i) {
    const auto start = std::chrono::steady_clock::now();
    loop.run(steps);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

// A loop that a compiler had replaced by its result would take no longer for more steps.
TEST(CoreCeiling, TimeGrowsWithTheSteps) {
  for (const Int8Loop* loop : usable_loops()) {
    EXPECT_GT(seconds_of(*loop, 80'000), 3 * seconds_of(*loop, 8'000)) << loop->instruction;
  }
}

TEST(CoreCeiling, BestInstructionOfTheFeaturesIsChosen) {
  const auto chosen = [](std::uint32_t features) { return std::string(int8_loop(features).instruction); };
  EXPECT_EQ(chosen(kCpuAvx2 | kCpuAvx512 | kCpuAvx512Vnni | kCpuAvxVnni), "vpdpbusd zmm");
  EXPECT_EQ(chosen(kCpuAvx2 | kCpuAvxVnni), "vpdpbusd ymm");
  EXPECT_EQ(chosen(kCpuAvx2 | kCpuAvx512).substr(0, 10), "vpmaddubsw");
  EXPECT_EQ(chosen(kCpuAvx2).substr(0, 10), "vpmaddubsw");
  EXPECT_EQ(chosen(kCpuBaseline).substr(0, 8), "compiled");
}

TEST(CoreCeiling, AdditionsWaitForEachOther) {
  EXPECT_EQ(dependent_additions(0), 0u);
  EXPECT_EQ(dependent_additions(12'345), 12'345u);
  double best = 1e9;
  for (int i = 0; i < 50; ++i) {
    const auto start = std::chrono::steady_clock::now();
    dependent_additions(100'000);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  EXPECT_GT(best, 100'000 / 10e9);  // no core runs at 10 GHz: additions in parallel would look like one that does
}

}  // namespace
}  // namespace fairway::backend
