// Clusters of `split` CTAs that share an item; split 1: no cluster.
#pragma once

#include <cooperative_groups.h>

namespace fairway::kernels::cuda {

__device__ __forceinline__ int cluster_rank(int split) {
  return split == 1 ? 0 : static_cast<int>(cooperative_groups::this_cluster().block_rank());
}
__device__ __forceinline__ void cluster_sync(int split) {
  if (split > 1) cooperative_groups::this_cluster().sync();
}

}  // namespace fairway::kernels::cuda
