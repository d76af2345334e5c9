// As ClusterExchange, by words of global memory, for GPUs without clusters: sums over all threads of kRanks
// neighbouring CTAs of a launch whose CTAs all run at the same time.
//
// The words are the module's. Each CTA adds one to the count of its row in every step, so between launches a count is a
// multiple of kRanks, and a CTA that has added nothing yet finds where the launch began. Launches on one device must
// follow each other: on one stream, or on streams that wait for each other.
#pragma once

#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/reduce.cuh"

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
class MemoryExchange {
 public:
  static constexpr int kRanks = kMemoryRanks;

  // After wait_for_previous_kernel(). row: of the launch.
  __device__ MemoryExchange(MemoryExchangeShared& shared, int row, int rank)
      : shared_(shared), row_(memory_exchange_rows[row]), rank_(rank) {
    if (threadIdx.x == 0) target_ = load_acquire(&row_.arrived) / kRanks * kRanks;
  }

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
  // A CTA is at most one step ahead of another, so two sets of places are enough.
  template <class Combine>
  __device__ const double* share(double mine, const Combine& combine) {
    const int lane = static_cast<int>(threadIdx.x & 31), warp = static_cast<int>(threadIdx.x >> 5);
    const auto over_warp = [&](double v) {
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) v = combine(v, __shfl_xor_sync(kAllLanes, v, distance));
      return v;
    };
    const int set = static_cast<int>(step_++ & 1);
    mine = over_warp(mine);
    if (lane == 0) shared_.of_warps[warp] = mine;
    __syncthreads();
    if (warp == 0) {
      const double total = over_warp(lane < static_cast<int>(blockDim.x >> 5) ? shared_.of_warps[lane] : 0.0);
      if (lane == 0) {
        row_.totals[set][rank_] = total;
        __threadfence();
        atomicAdd(&row_.arrived, 1u);
        target_ += kRanks;
        wait_until_reached(&row_.arrived, target_);
      }
      __syncwarp();
      if (lane < kRanks) shared_.totals[set][lane] = __ldcg(&row_.totals[set][lane]);
    }
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
