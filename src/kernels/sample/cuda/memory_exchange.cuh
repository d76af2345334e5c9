// As ClusterExchange, by words of global memory, for GPUs without clusters: sums over all threads of kRanks
// neighbouring CTAs of a launch whose CTAs all run at the same time.
//
// The words are the module's. Each CTA adds one to the count of its row in every step, so between launches a count is a
// multiple of kRanks, and a CTA that has added nothing yet finds where the launch began. Launches on one device must
// follow each other: on one stream, or on streams that wait for each other.
#pragma once

#include "kernels/common/cuda/hopper.cuh"
#include "kernels/sample/cuda/rank_exchange.cuh"

namespace fairway::kernels::cuda {

constexpr int kMemoryRanks = 16;
constexpr int kMemoryRows = 64;  // of a launch

struct MemoryExchangeRow {
  unsigned arrived;
  double totals[2][kMemoryRanks];  // of the CTAs, by step and rank
};
static __device__ MemoryExchangeRow memory_exchange_rows[kMemoryRows];

// Shared memory of a CTA, 8-byte aligned.
struct MemoryExchangeShared {
  double of_warps[32];
  double totals[2][kMemoryRanks];
};

// The same calls in the same order by all threads of the row's CTAs.
class MemoryExchange : public RankExchange<MemoryExchange, kMemoryRanks> {
  friend RankExchange;

 public:
  // After wait_for_previous_kernel(). row: of the launch.
  __device__ MemoryExchange(MemoryExchangeShared& shared, int row, int rank)
      : shared_(shared), row_(memory_exchange_rows[row]), rank_(rank) {
    if (threadIdx.x == 0) target_ = load_acquire(&row_.arrived) / kRanks * kRanks;
  }

 private:
  // A CTA is at most one step ahead of another, so two sets of places are enough.
  template <class Combine>
  __device__ const double* share(double mine, const Combine& combine) {
    const int set = static_cast<int>(step_++ & 1);
    over_cta(mine, shared_.of_warps, combine, [&](double total, int lane) {
      if (lane == 0) {
        row_.totals[set][rank_] = total;
        __threadfence();
        atomicAdd(&row_.arrived, 1u);
        target_ += kRanks;
        wait_until_reached(&row_.arrived, target_);
      }
      __syncwarp();
      if (lane < kRanks) shared_.totals[set][lane] = __ldcg(&row_.totals[set][lane]);
    });
    __syncthreads();
    return shared_.totals[set];
  }

  MemoryExchangeShared& shared_;
  MemoryExchangeRow& row_;
  int rank_;
  unsigned target_ = 0;  // of the first thread
  unsigned step_ = 0;
};

}  // namespace fairway::kernels::cuda
