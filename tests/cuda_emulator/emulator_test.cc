// The emulator itself: threads meet where they should, and what no device could do is found.
#include "emulator.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/launch.cuh"

namespace fairway::kernels::cuda {
namespace {

// Sums of the values of a block, by shuffles, shared memory and a barrier.
__global__ void block_sums(const int* values, int* sums) {
  int* const warps = dynamic_shared<int>();
  int sum = values[blockIdx.x * blockDim.x + threadIdx.x];
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, d);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (unsigned w = 1; w < blockDim.x / 32; ++w) sum += warps[w];
    sums[blockIdx.x] = sum;
  }
}

__global__ void half_a_block_waits() {
  if (threadIdx.x < 32) consumer_sync<64>();
}

TEST(CudaEmulator, ThreadsMeet) {
  std::vector<int> values(5 * 128), sums(5);
  std::iota(values.begin(), values.end(), 0);
  ASSERT_EQ(launch(block_sums, {dim3(5), 128, 16}, nullptr, values.data(), sums.data()), cudaSuccess);
  for (int b = 0; b < 5; ++b) EXPECT_EQ(sums[b], 128 * 128 * b + 127 * 64);
}

TEST(CudaEmulatorDeathTest, DeadlocksAreReported) {
  EXPECT_DEATH((void)launch(half_a_block_waits, {dim3(1), 64}, nullptr), "deadlock: every thread waits");
}

TEST(CudaEmulatorDeathTest, ImpossibleLaunchesAreReported) {
  EXPECT_DEATH((void)launch(half_a_block_waits, {dim3(1), 2048}, nullptr), "unusual number of threads");
  EXPECT_DEATH((void)launch(half_a_block_waits, {dim3(3), 64, 0, 2}, nullptr), "cluster");
}

TEST(CudaEmulator, SharedMemoryBeyondADevicesIsRefused) {
  EXPECT_EQ(launch(half_a_block_waits, {dim3(1), 64, 300 * 1024}, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace fairway::kernels::cuda
