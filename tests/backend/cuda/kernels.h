// Small kernels that the tests of the CUDA backend launch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cuda/stream.h"

namespace fairway::test {

// values[i] = values[i] * 1664525 + i + addend, modulo 2^32, for i < count: every step depends on the one before.
void launch_scramble(backend::CudaStream& stream, std::uint32_t* values, std::size_t count, std::uint32_t addend);

// One thread that does nothing for at least this long by the device's clock.
void launch_spin(backend::CudaStream& stream, std::int64_t microseconds);

// More threads per block than any device has: a launch that must be refused.
void launch_impossible(backend::CudaStream& stream);

}  // namespace fairway::test
