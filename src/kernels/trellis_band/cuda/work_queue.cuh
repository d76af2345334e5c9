// Numbers that the loading warp hands to the computing warps, in order.
#pragma once

#include "kernels/common/cuda/hopper.cuh"

namespace fairway::kernels::cuda {

struct WorkQueue {
  static constexpr int kPlaces = 2;
  std::uint64_t full[kPlaces], empty[kPlaces];
  int numbers[kPlaces];
};

__device__ __forceinline__ void queue_init(WorkQueue* queue, int reading_warps) {
  for (int i = 0; i < WorkQueue::kPlaces; ++i) {
    barrier_init(&queue->full[i], 1);
    barrier_init(&queue->empty[i], reading_warps);
  }
  barrier_init_fence();
}

// Where a warp stands; all its lanes call put() or get().
struct QueueCursor {
  WorkQueue* queue;
  int count = 0;

  __device__ void put(int number) {
    const int place = count % WorkQueue::kPlaces, round = count / WorkQueue::kPlaces;
    ++count;
    barrier_wait(&queue->empty[place], (round & 1) ^ 1);
    __syncwarp();  // a lane that comes late would find the place taken, read and empty again, and wait for ever
    if ((threadIdx.x & 31) == 0) {
      queue->numbers[place] = number;
      barrier_arrive(&queue->full[place]);
    }
    __syncwarp();
  }
  __device__ int get() {
    const int place = count % WorkQueue::kPlaces, round = count / WorkQueue::kPlaces;
    ++count;
    barrier_wait(&queue->full[place], round & 1);
    const int number = queue->numbers[place];
    __syncwarp();
    if ((threadIdx.x & 31) == 0) barrier_arrive(&queue->empty[place]);
    return number;
  }
};

}  // namespace fairway::kernels::cuda
