// Rings of CTAs stay within the shared memory of every GPU generation.
#include "kernels/trellis_band/cuda/ring_plan.cuh"

#include <gtest/gtest.h>

#include <algorithm>

namespace fairway::kernels::cuda {
namespace {

TEST(RingPlan, StaysWithinTheSharedMemoryOfAnSm) {
  for (const int kilobytes : {99, 163, 227}) {
    const int shared = kilobytes * 1024;
    for (int most = 1; most <= 3; ++most) {
      for (int fixed = 0; fixed < 300 * 1024; fixed += 5000) {
        for (int bits = 1; bits <= 8; ++bits) {
          const int stage = 2048 * bits, blocks = 1 + fixed % 40;
          const RingPlan plan = plan_ring(shared, most, fixed, stage, blocks);
          ASSERT_GE(plan.ctas, 1);
          ASSERT_LE(plan.ctas, most);
          const bool fits = fixed + stage + kSharedPerCta <= shared;
          ASSERT_EQ(plan.stages >= 1, fits) << kilobytes << " KB, " << fixed << " beside stages of " << stage;
          if (!fits) continue;
          ASSERT_LE(plan.stages, std::min(kMaxStages, blocks));
          ASSERT_LE(plan.ctas * (fixed + plan.stages * stage + kSharedPerCta), shared);
        }
      }
    }
  }
}

}  // namespace
}  // namespace fairway::kernels::cuda
