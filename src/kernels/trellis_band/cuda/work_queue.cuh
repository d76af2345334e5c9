// Tasks that the loading warp hands to the computing warps, in order, through shared memory.
#pragma once

#include "kernels/common/cuda/hopper.cuh"

namespace fairway::kernels::cuda {

template <class Task>
struct WorkQueue {
  static constexpr int kPlaces = 2;
  std::uint64_t full[kPlaces], empty[kPlaces];
  Task tasks[kPlaces];
};

template <class Task>
__device__ __forceinline__ void queue_init(WorkQueue<Task>* queue, int reading_warps) {
  for (int i = 0; i < WorkQueue<Task>::kPlaces; ++i) {
    barrier_init(&queue->full[i], 1);
    barrier_init(&queue->empty[i], 32 * reading_warps);  // every lane, see release_stage()
  }
  barrier_init_fence();
}

// Where a warp stands. All its lanes call each of these.
template <class Task>
struct QueueCursor {
  WorkQueue<Task>* queue;
  unsigned count = 0;  // tasks that were handed over

  __device__ unsigned place() const { return count % WorkQueue<Task>::kPlaces; }
  __device__ int parity() const { return static_cast<int>(count / WorkQueue<Task>::kPlaces & 1); }
  __device__ Task& task() const { return queue->tasks[place()]; }

  // The loading warp: its lanes fill in task() between these two.
  __device__ void begin_put() const {
    barrier_wait(&queue->empty[place()], parity() ^ 1);
    __syncwarp();  // a lane that comes late would find the place taken, read and empty again, and wait for ever
  }
  __device__ void end_put() {
    __syncwarp();
    if ((threadIdx.x & 31) == 0) barrier_arrive(&queue->full[place()]);
    ++count;
  }

  // Computing warps read task() between these two.
  __device__ void begin_get() const { barrier_wait(&queue->full[place()], parity()); }
  __device__ void end_get() {
    barrier_arrive(&queue->empty[place()]);
    ++count;
  }
};

}  // namespace fairway::kernels::cuda
