// Clusters of `split` CTAs that share an item; split 1: no cluster.
#pragma once

#include <cooperative_groups.h>

#include "kernels/common/cuda/hopper.cuh"

namespace fairway::kernels::cuda {

// The CTA's number in its cluster, and where p would be in the shared memory of another one. Code without clusters does
// not come here.
__device__ __forceinline__ int rank_in_cluster() {
#if FAIRWAY_CODE_HAS_CLUSTERS
  return static_cast<int>(cooperative_groups::this_cluster().block_rank());
#else
  not_for_this_code();
  return 0;
#endif
}
template <class T>
__device__ __forceinline__ T* in_shared_of(T* p, int rank) {
#if FAIRWAY_CODE_HAS_CLUSTERS
  return cooperative_groups::this_cluster().map_shared_rank(p, rank);
#else
  not_for_this_code();
  return p + 0 * rank;
#endif
}

__device__ __forceinline__ int cluster_rank(int split) {
  return split == 1 ? 0 : rank_in_cluster();
}
__device__ __forceinline__ void cluster_sync([[maybe_unused]] int split) {
#if FAIRWAY_CODE_HAS_CLUSTERS
  if (split > 1) cooperative_groups::this_cluster().sync();
#endif
}

}  // namespace fairway::kernels::cuda
