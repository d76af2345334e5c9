// How many stages the ring of a launch gets, and how many CTAs share an SM.
#pragma once

#include <algorithm>

#include "kernels/trellis_band/cuda/ring.cuh"

namespace fairway::kernels::cuda {

constexpr int kSharedPerSm = 227 * 1024;  // Hopper: most shared memory of the CTAs of an SM, and of one CTA
constexpr int kSharedPerCta = 1024;       // reserved by the system for each CTA, and the ring's barriers
constexpr int kMaxCluster = 8;            // largest portable cluster
constexpr int kFewStages = 4;             // with fewer, one CTA on an SM with a deeper ring is the better use of it

struct RingPlan {
  int ctas;    // of an SM
  int stages;  // below 1: not even one fits
};

// fixed: bytes of a CTA beside the ring. A CTA needs no more stages than it has blocks.
inline RingPlan plan_ring(int most_ctas, int fixed, int stage_bytes, int blocks) {
  const auto stages_for = [&](int n) { return (kSharedPerSm / n - kSharedPerCta - fixed) / stage_bytes; };
  int ctas = most_ctas;
  while (ctas > 1 && stages_for(ctas) < kFewStages) --ctas;
  return {ctas, std::min(stages_for(ctas), std::min(kMaxStages, blocks))};
}

}  // namespace fairway::kernels::cuda
