// Sums over all threads of a cluster, known to all of them: what a search over data spread over eight CTAs needs in
// every step. CTAs send their sums to each other and count the bytes, so a step costs no barrier that orders memory.
// One CTA alone, where there are no clusters, does the same by its own barrier.
#pragma once

#include <cstdint>

#include "kernels/common/cuda/hopper.cuh"
#include "kernels/sample/cuda/rank_exchange.cuh"

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
class ClusterExchange : public RankExchange<ClusterExchange<kRanks>, kRanks> {
  using Base = RankExchange<ClusterExchange, kRanks>;
  friend Base;
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

 private:
  template <class Combine>
  __device__ const double* share(double mine, const Combine& combine) {
    const int set = static_cast<int>(step_ & 1);
    [[maybe_unused]] const int parity = static_cast<int>(step_ >> 1 & 1);
    ++step_;
    Base::over_cta(mine, memory_.of_warps[set], combine, [&](double total, int lane) {
      if constexpr (kRanks == 1) {
        if (lane == 0) memory_.totals[set][0] = total;
      } else {
        union {
          double value;
          float halves[2];
        } sent{total};
        if (lane == 0) barrier_expect(&memory_.barriers[set], kExchangeRanks * static_cast<int>(sizeof(double)));
        if (lane < kExchangeRanks) {
          auto* const place = reinterpret_cast<float*>(&memory_.totals[set][rank_]);
          send_to_cluster(place, &memory_.barriers[set], lane, sent.halves[0]);
          send_to_cluster(place + 1, &memory_.barriers[set], lane, sent.halves[1]);
        }
      }
    });
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
