// One thread for every few elements.
#include <cuda_fp16.h>

#include <algorithm>

#include "backend/cuda/check.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/common/cuda/random_fill.cuh"
#include "kernels/common/random_values.h"

namespace fairway::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    random_words_kernel(std::uint32_t* words, std::size_t count, std::uint64_t seed, std::uint64_t first) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const std::size_t step = std::size_t{gridDim.x} * kThreads;
  for (std::size_t i = std::size_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    words[i] = random_word(seed, first + i);
  }
}

__global__ void __launch_bounds__(kThreads)
    random_values_kernel(std::uint16_t* values, std::size_t count, bool bfloat, float deviation, std::uint64_t seed,
                         std::uint64_t first) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const std::size_t step = std::size_t{gridDim.x} * kThreads;
  for (std::size_t i = std::size_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    const float v = random_value(seed, first + i, deviation);
    const unsigned bits = __float_as_uint(v);
    values[i] = bfloat ? static_cast<std::uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16)
                       : __half_as_ushort(__float2half_rn(v));
  }
}

dim3 grid_for(std::size_t count) {
  const std::size_t blocks = std::min<std::size_t>((count + kThreads - 1) / kThreads, 65536);
  return dim3(static_cast<unsigned>(std::max<std::size_t>(blocks, 1)));
}

}  // namespace

void random_words(std::uint32_t* words, std::size_t count, std::uint64_t seed, cudaStream_t stream,
                  std::uint64_t first) {
  backend::check_cuda(launch(random_words_kernel, {grid_for(count), kThreads}, stream, words, count, seed, first),
                      "random words");
}

void random_values(std::uint16_t* values, std::size_t count, bool bfloat, float deviation, std::uint64_t seed,
                   cudaStream_t stream, std::uint64_t first) {
  backend::check_cuda(
      launch(random_values_kernel, {grid_for(count), kThreads}, stream, values, count, bfloat, deviation, seed, first),
      "random values");
}

}  // namespace fairway::kernels::cuda
