// Clusters of blocks, as CUDA's cooperative groups name them.
#pragma once

#include "cuda_runtime.h"

namespace cooperative_groups {

struct cluster_group {
  unsigned block_rank() const { return static_cast<unsigned>(fairway::cuda_emulator::cluster_rank()); }
  void sync() const { fairway::cuda_emulator::cluster_sync(); }
  template <class T>
  T* map_shared_rank(T* p, int rank) const {
    namespace emulator = fairway::cuda_emulator;
    const auto offset = reinterpret_cast<unsigned char*>(p) - emulator::dynamic_shared();
    return reinterpret_cast<T*>(emulator::dynamic_shared_of(rank) + offset);
  }
};
inline cluster_group this_cluster() {
  return {};
}

}  // namespace cooperative_groups
