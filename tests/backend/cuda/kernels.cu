// Bodies of the test kernels.
#include <cuda_runtime.h>

#include "backend/cuda/check.cuh"
#include "backend/cuda/device_scope.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/native.cuh"

namespace fairway::test {
namespace {

constexpr unsigned kThreads = 256;

__global__ void scramble(std::uint32_t* values, std::size_t count, std::uint32_t addend) {
  const std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) values[i] = values[i] * 1664525u + static_cast<std::uint32_t>(i) + addend;
}

__global__ void spin(unsigned long long nanoseconds) {
  unsigned long long begin = 0, now = 0;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  } while (now - begin < nanoseconds);
}

}  // namespace

void launch_scramble(backend::CudaStream& stream, std::uint32_t* values, std::size_t count, std::uint32_t addend) {
  if (count == 0) return;  // a grid of no blocks is an error
  const backend::DeviceScope scope(stream.device());
  const auto blocks = static_cast<unsigned>((count + kThreads - 1) / kThreads);
  scramble<<<blocks, kThreads, 0, backend::native(stream)>>>(values, count, addend);
  backend::check_cuda_launch("scramble");
}

void launch_spin(backend::CudaStream& stream, std::int64_t microseconds) {
  const backend::DeviceScope scope(stream.device());
  spin<<<1, 1, 0, backend::native(stream)>>>(static_cast<unsigned long long>(microseconds) * 1000);
  backend::check_cuda_launch("spin");
}

void launch_impossible(backend::CudaStream& stream) {
  const backend::DeviceScope scope(stream.device());
  spin<<<1, 4096, 0, backend::native(stream)>>>(0);
  backend::check_cuda_launch("spin with 4096 threads");
}

}  // namespace fairway::test
