// Random numbers in device memory, for weights of models that need none but their size.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace fairway::kernels::cuda {

// Word i is a hash of (seed, i): the same on every device.
void random_words(std::uint32_t* words, std::size_t count, std::uint64_t seed, cudaStream_t stream);

// Uniform in (-sqrt(3), sqrt(3)) * deviation, as halves or bfloats.
void random_values(std::uint16_t* values, std::size_t count, bool bfloat, float deviation, std::uint64_t seed,
                   cudaStream_t stream);

}  // namespace fairway::kernels::cuda
