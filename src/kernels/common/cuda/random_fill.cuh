// Random numbers in device memory, for weights of models that need none but their size.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace fairway::kernels::cuda {

// words[i] = random_word(seed, first + i) of kernels/common/random_values.h.
void random_words(std::uint32_t* words, std::size_t count, std::uint64_t seed, cudaStream_t stream,
                  std::uint64_t first = 0);

// values[i] = random_value(seed, first + i, deviation), as halves or bfloats, to the nearest, ties to even.
void random_values(std::uint16_t* values, std::size_t count, bool bfloat, float deviation, std::uint64_t seed,
                   cudaStream_t stream, std::uint64_t first = 0);

}  // namespace fairway::kernels::cuda
