// Sums over all threads of a cluster, known to all of them: what a search over data spread over eight CTAs needs in
// every step. CTAs send their sums to each other and count the bytes, so a step costs no barrier that orders memory.
// One CTA alone, where there are no clusters, does the same by its own barrier.
#pragma once

#include <cstdint>

#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/reduce.cuh"

namespace fairway::kernels::cuda {

constexpr int kExchangeRanks = 8;

// Shared memory, at the same place in every CTA, 8-byte aligned.
struct ExchangeMemory {
  std::uint64_t barriers[2];         // of steps with an even and an odd number
  double totals[2][kExchangeRanks];  // of the CTAs, by step and rank
  double of_warps[2][32];            // by step
};

// The same calls in the same order by all threads of the cluster. A CTA is at most one step ahead of another, because
// it needs the other's part of the step before; so two sets of places are enough. Those of a CTA's warps are free for
// the next step but one, because warp 0 has read them before the CTA's barrier of the next step.
template <int kRanks>
class ClusterExchange {
  static_assert(kRanks == kExchangeRanks || kRanks == 1);

 public:
  // Before the first step comes wait_for_others().
  __device__ ClusterExchange(ExchangeMemory& memory, int rank) : memory_(memory), rank_(rank) {
    if constexpr (kRanks == 1) return;
    if (threadIdx.x == 0) {
      barrier_init(&memory.barriers[0], 1);
      barrier_init(&memory.barriers[1], 1);
      barrier_init_fence();
    }
    __syncthreads();
    cluster_arrive();
  }
  __device__ void wait_for_others() {
    if constexpr (kRanks > 1) cluster_wait();
  }

  // The order of the additions is fixed: lanes, warps, CTAs.
  __device__ double sum(double mine) {
    const double* const all = share(mine, [](double a, double b) { return a + b; });
    double total = 0;
    for (int i = 0; i < kRanks; ++i) total += all[i];
    return total;
  }
  __device__ double max(double mine) {
    const auto larger = [](double a, double b) { return a > b ? a : b; };
    const double* const all = share(mine, larger);
    double largest = all[0];
    for (int i = 1; i < kRanks; ++i) largest = larger(largest, all[i]);
    return largest;
  }

 private:
  // `combine` over the CTA, then the results of all CTAs. 0 is combine's neutral element.
  template <class Combine>
  __device__ const double* share(double mine, const Combine& combine) {
    const int lane = static_cast<int>(threadIdx.x & 31), warp = static_cast<int>(threadIdx.x >> 5);
    const auto over_warp = [&](double v) {
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) v = combine(v, __shfl_xor_sync(kAllLanes, v, distance));
      return v;
    };
    const int set = static_cast<int>(step_ & 1);
    [[maybe_unused]] const int parity = static_cast<int>(step_ >> 1 & 1);
    ++step_;
    mine = over_warp(mine);
    if (lane == 0) memory_.of_warps[set][warp] = mine;
    __syncthreads();
    if (warp == 0) {
      union {
        double value;
        float halves[2];
      } total;
      total.value = over_warp(lane < static_cast<int>(blockDim.x >> 5) ? memory_.of_warps[set][lane] : 0.0);
      if constexpr (kRanks == 1) {
        if (lane == 0) memory_.totals[set][0] = total.value;
      } else {
        if (lane == 0) barrier_expect(&memory_.barriers[set], kExchangeRanks * static_cast<int>(sizeof(double)));
        if (lane < kExchangeRanks) {
          auto* const place = reinterpret_cast<float*>(&memory_.totals[set][rank_]);
          send_to_cluster(place, &memory_.barriers[set], lane, total.halves[0]);
          send_to_cluster(place + 1, &memory_.barriers[set], lane, total.halves[1]);
        }
      }
    }
    if constexpr (kRanks == 1) {
      __syncthreads();
    } else {
      barrier_wait_cluster(&memory_.barriers[set], parity);
    }
    return memory_.totals[set];
  }

  ExchangeMemory& memory_;
  int rank_;
  unsigned step_ = 0;
};

}  // namespace fairway::kernels::cuda
