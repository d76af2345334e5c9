// How many stages the ring of a launch gets, and how many CTAs share an SM.
#pragma once

#include <algorithm>

namespace fairway::kernels::cuda {

constexpr int kMaxStages = 16;
constexpr int kSharedPerCta = 1024;  // reserved by the system for each CTA, and the ring's barriers
constexpr int kMaxCluster = 8;       // largest portable cluster
constexpr int kFewStages = 4;        // with fewer, one CTA on an SM with a deeper ring is the better use of it

struct RingPlan {
  int ctas;    // of an SM
  int stages;  // below 1: not even one fits
};

// shared_bytes: GpuFeatures', of the CTAs of an SM. fixed: bytes of a CTA beside the ring. A CTA needs no more stages
// than it has blocks.
inline RingPlan plan_ring(int shared_bytes, int most_ctas, int fixed, int stage_bytes, int blocks) {
  const auto stages_for = [&](int n) {
    const int room = shared_bytes / n - kSharedPerCta - fixed;
    return room < 0 ? 0 : room / stage_bytes;
  };
  int ctas = most_ctas;
  while (ctas > 1 && stages_for(ctas) < kFewStages) --ctas;
  return {ctas, std::min(stages_for(ctas), std::min(kMaxStages, blocks))};
}

}  // namespace fairway::kernels::cuda
