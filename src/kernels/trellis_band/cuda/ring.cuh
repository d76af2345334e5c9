// A ring of stages in shared memory between the warps that load, mostly one, and those that compute.
#pragma once

#include "kernels/common/cuda/hopper.cuh"
#include "kernels/trellis_band/cuda/ring_plan.cuh"

namespace fairway::kernels::cuda {

struct RingBarriers {
  std::uint64_t full[kMaxStages];
  std::uint64_t empty[kMaxStages];
};

// A computing warp leaves a stage. Every lane arrives for what it has read itself: compute-sanitizer's racecheck does
// not follow one lane's arrival for its warp.
__device__ __forceinline__ void release_stage(std::uint64_t* empty) {
  barrier_arrive(empty);
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

// Arrivals of a loading warp when it has filled its part of a stage: one that counts the bytes of its bulk copies, or
// one of every lane when the lane's own copies are there.
__device__ __forceinline__ int loader_arrivals() {
  return code_has_clusters() ? 1 : 32;
}

// loaders: warps that each load a part of every stage. releases: warps that compute.
__device__ __forceinline__ void ring_init(RingBarriers* barriers, int stages, int releases, int loaders = 1) {
  for (int i = 0; i < stages; ++i) {
    barrier_init(&barriers->full[i], loaders * loader_arrivals());
    barrier_init(&barriers->empty[i], 32 * releases);
  }
  barrier_init_fence();
}

// The same by all of `warps` warps.
__device__ __forceinline__ void ring_init_by_warps(RingBarriers* barriers, int stages, int releases, int loaders,
                                                   int warps) {
  if (!elected()) return;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x >> 5); i < stages; i += warps) {
    barrier_init(&barriers->full[i], loaders * loader_arrivals());
    barrier_init(&barriers->empty[i], 32 * releases);
  }
  barrier_init_fence();
}

// Without bulk copies: kRows rows of a stage, `bytes` each, one after the other from `to` on. Lane l copies a part of
// row l % kRows, which begins at `from`.
template <int kRows>
__device__ __forceinline__ void copy_rows_by_lanes(unsigned char* to, const unsigned char* from, int bytes) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  to += lane % kRows * bytes;
#pragma unroll 1
  for (int at = lane / kRows * 16; at < bytes; at += 32 / kRows * 16) copy_async_16(to + at, from + at, false);
}

}  // namespace fairway::kernels::cuda
