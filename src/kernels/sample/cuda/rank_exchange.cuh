// What the exchanges of CTAs that share a row have in common, whichever way they send each other their parts.
#pragma once

#include "kernels/common/cuda/reduce.cuh"

namespace fairway::kernels::cuda {

// Exchange has share(mine, combine): `combine` over each CTA, then the results of all kRanks CTAs by rank. 0 is
// combine's neutral element.
template <class Exchange, int kRankCount>
class RankExchange {
 public:
  static constexpr int kRanks = kRankCount;

  // The order of the additions is fixed: lanes, warps, CTAs.
  __device__ double sum(double mine) {
    const double* const all = self().share(mine, [](double a, double b) { return a + b; });
    double total = 0;
    for (int i = 0; i < kRanks; ++i) total += all[i];
    return total;
  }
  __device__ double max(double mine) {
    const auto larger = [](double a, double b) { return a > b ? a : b; };
    const double* const all = self().share(mine, larger);
    double largest = all[0];
    for (int i = 1; i < kRanks; ++i) largest = larger(largest, all[i]);
    return largest;
  }

 protected:
  // `combine` over the CTA, handed to the lanes of warp 0. of_warps: [32], shared memory that nobody uses. Has a
  // barrier of the CTA in front of that.
  template <class Combine, class ByFirstWarp>
  static __device__ void over_cta(double mine, double* of_warps, const Combine& combine, const ByFirstWarp& use) {
    const int lane = static_cast<int>(threadIdx.x & 31), warp = static_cast<int>(threadIdx.x >> 5);
    const auto over_warp = [&](double v) {
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) v = combine(v, __shfl_xor_sync(kAllLanes, v, distance));
      return v;
    };
    mine = over_warp(mine);
    if (lane == 0) of_warps[warp] = mine;
    __syncthreads();
    if (warp == 0) use(over_warp(lane < static_cast<int>(blockDim.x >> 5) ? of_warps[lane] : 0.0), lane);
  }

 private:
  __device__ Exchange& self() {
    return static_cast<Exchange&>(*this);
  }
};

}  // namespace fairway::kernels::cuda
