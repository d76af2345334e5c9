// Device memory of a random problem, an allocation for each array so that tools see accesses outside it.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/cuda/arena.h"
#include "backend/cuda/stream.h"
#include "codec/half.h"
#include "kernels/trellis_band/cuda/trellis_ref.cuh"
#include "kernels/verify/random_weights.h"

namespace fairway::verify {

class DeviceCopies {
 public:
  explicit DeviceCopies(backend::CudaStream& stream) : stream_(stream) {}
  ~DeviceCopies() { stream_.wait(); }
  DeviceCopies(const DeviceCopies&) = delete;
  DeviceCopies& operator=(const DeviceCopies&) = delete;

  template <class T>
  T* allocate(std::size_t count) {
    const std::size_t bytes = std::max<std::size_t>(1, count * sizeof(T));
    arenas_.push_back(std::make_unique<backend::DeviceArena>(stream_.device(), backend::DeviceArena::rounded(bytes)));
    return arenas_.back()->alloc<T>(std::max<std::size_t>(1, count), "a random problem");
  }

  template <class T>
  T* copy(std::span<const T> values) {
    T* const to = allocate<T>(values.size());
    stream_.copy_to_device(to, values.data(), values.size_bytes());
    return to;
  }

  const __half* halves(std::span<const float> values) {
    std::vector<std::uint16_t> bits;
    for (const float v : values) bits.push_back(codec::half_from_float(v));
    return reinterpret_cast<const __half*>(copy<std::uint16_t>(bits));
  }

  // Output columns that are padding become zeros, as in a loaded model. suh: a copy to share, or null.
  kernels::cuda::TrellisRef matrix(const RandomTrellis& host, const __half* suh = nullptr) {
    const kernels::TrellisMatrix& m = host.matrix();
    const std::size_t bytes =
        static_cast<std::size_t>(m.in) * static_cast<std::size_t>(m.out) / 8 * static_cast<std::size_t>(m.bits);
    std::vector<float> svh(m.svh, m.svh + m.out);
    std::fill(svh.begin() + host.out_exact(), svh.end(), 0.0f);
    return {copy<unsigned char>({m.words, bytes}),
            suh != nullptr ? suh : halves({m.suh, static_cast<std::size_t>(m.in)}), halves(svh), m.bits,
            static_cast<int>(m.codebook)};
  }

 private:
  backend::CudaStream& stream_;
  std::vector<std::unique_ptr<backend::DeviceArena>> arenas_;
};

// 96 to `most`, a multiple of 128 one time in four. Bounds are relative to norms of rows, which scatter too much if
// shorter.
inline int random_size(std::mt19937& random, int most) {
  const unsigned blocks = static_cast<unsigned>(most) / 128, range = static_cast<unsigned>(most) - 95;
  return static_cast<int>(random() % 4 == 0 ? 128 * (1 + random() % blocks) : 96 + random() % range);
}

// Values that are exact halves.
inline std::vector<float> random_halves(std::mt19937& random, std::size_t count) {
  std::vector<float> values = random_normal(random, count);
  for (float& v : values) v = codec::float_from_half(codec::half_from_float(v));
  return values;
}

}  // namespace fairway::verify
