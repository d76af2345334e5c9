// A ring of stages in shared memory between the warps that load, mostly one, and those that compute.
#pragma once

#include "kernels/common/cuda/hopper.cuh"

namespace fairway::kernels::cuda {

constexpr int kMaxStages = 16;

struct RingBarriers {
  std::uint64_t full[kMaxStages];
  std::uint64_t empty[kMaxStages];
};

// A computing warp leaves a stage.
__device__ __forceinline__ void release_stage(std::uint64_t* empty) {
  __syncwarp();
  if ((threadIdx.x & 31) == 0) barrier_arrive(empty);
}

// Where a warp stands in the ring.
struct RingCursor {
  unsigned char* stages;
  RingBarriers* barriers;
  int stage_count, stage_bytes;
  int stage = 0, parity = 0;

  __device__ void advance() {
    if (++stage == stage_count) {
      stage = 0;
      parity ^= 1;
    }
  }
  __device__ unsigned char* data() const { return stages + stage * stage_bytes; }
  __device__ std::uint64_t* full() const { return &barriers->full[stage]; }
  __device__ std::uint64_t* empty() const { return &barriers->empty[stage]; }

  // Loader: blocks until the computing warps have left the stage. The first round finds every stage free.
  __device__ void wait_empty() const { barrier_wait(&barriers->empty[stage], parity ^ 1); }
  // Computing warps.
  __device__ void wait_full() const { barrier_wait(&barriers->full[stage], parity); }
  __device__ void release() const { release_stage(empty()); }
};

// loaders: warps that each load a part of every stage.
__device__ __forceinline__ void ring_init(RingBarriers* barriers, int stages, int releases, int loaders = 1) {
  for (int i = 0; i < stages; ++i) {
    barrier_init(&barriers->full[i], loaders);
    barrier_init(&barriers->empty[i], releases);
  }
  barrier_init_fence();
}

// The same by a warp, a lane for each stage: less code, which runs once.
__device__ __forceinline__ void ring_init_by_lanes(RingBarriers* barriers, int stages, int releases, int loaders = 1) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  if (lane < stages) {
    barrier_init(&barriers->full[lane], loaders);
    barrier_init(&barriers->empty[lane], releases);
  }
  barrier_init_fence();
}

}  // namespace fairway::kernels::cuda
