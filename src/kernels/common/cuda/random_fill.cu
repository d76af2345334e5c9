// A hash of the index for every element.
#include <cuda_fp16.h>

#include <algorithm>

#include "backend/cuda/check.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/common/cuda/random_fill.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// splitmix64's output function of the seed's sequence at i.
__device__ std::uint64_t hash_of(std::uint64_t seed, std::uint64_t i) {
  std::uint64_t z = seed * 0xD1342543DE82EF95u + (i + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

__global__ void __launch_bounds__(kThreads)
    random_words_kernel(std::uint32_t* words, std::size_t count, std::uint64_t seed) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const std::size_t step = std::size_t{gridDim.x} * kThreads;
  for (std::size_t i = std::size_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    words[i] = static_cast<std::uint32_t>(hash_of(seed, i) >> 32);
  }
}

__global__ void __launch_bounds__(kThreads)
    random_values_kernel(std::uint16_t* values, std::size_t count, bool bfloat, float deviation, std::uint64_t seed) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  constexpr float kRange = 1.7320508f;  // standard deviation 1
  const std::size_t step = std::size_t{gridDim.x} * kThreads;
  for (std::size_t i = std::size_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    const float unit = static_cast<float>(hash_of(seed, i) >> 40) * (1.0f / (1 << 24));  // [0, 1)
    const float v = (2.0f * unit - 1.0f) * kRange * deviation;
    const unsigned rounded = __float_as_uint(v) + 0x8000u;  // to the nearest; ties away from zero
    values[i] = bfloat ? static_cast<std::uint16_t>(rounded >> 16) : __half_as_ushort(__float2half_rn(v));
  }
}

dim3 grid_for(std::size_t count) {
  const std::size_t blocks = std::min<std::size_t>((count + kThreads - 1) / kThreads, 65536);
  return dim3(static_cast<unsigned>(std::max<std::size_t>(blocks, 1)));
}

}  // namespace

void random_words(std::uint32_t* words, std::size_t count, std::uint64_t seed, cudaStream_t stream) {
  backend::check_cuda(launch(random_words_kernel, {grid_for(count), kThreads}, stream, words, count, seed),
                      "random words");
}

void random_values(std::uint16_t* values, std::size_t count, bool bfloat, float deviation, std::uint64_t seed,
                   cudaStream_t stream) {
  backend::check_cuda(
      launch(random_values_kernel, {grid_for(count), kThreads}, stream, values, count, bfloat, deviation, seed),
      "random values");
}

}  // namespace fairway::kernels::cuda
