// Arrays on the device for tests of kernels: each an allocation of its own, poisoned before it is written.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "backend/cuda/check.cuh"
#include "codec/half.h"
#include "kernels/common/matrix.h"
#include "kernels/moe_swiglu/cuda/problem.cuh"

namespace fairway::kernels::cuda::check {

#ifdef FAIRWAY_CUDA_EMULATED
constexpr std::size_t kGuardBytes = 64;  // behind the array; nobody else looks for writes there
#else
constexpr std::size_t kGuardBytes = 0;  // compute-sanitizer knows the end
#endif
constexpr unsigned char kGuard = 0xC3;

template <class T>
class DeviceValues {
 public:
  explicit DeviceValues(std::size_t count) : count_(count) {
    backend::check_cuda(cudaMalloc(&data_, bytes() + kGuardBytes), "cudaMalloc");
    backend::check_cuda(cudaMemset(data_ + bytes(), kGuard, kGuardBytes), "guard");
    poison();
  }
  explicit DeviceValues(const std::vector<T>& values) : DeviceValues(values.size()) { upload(values); }
  ~DeviceValues() {
    std::vector<unsigned char> guard(kGuardBytes, kGuard), found(kGuardBytes);
    EXPECT_EQ(cudaMemcpy(found.data(), data_ + bytes(), kGuardBytes, cudaMemcpyDeviceToHost), cudaSuccess);
    EXPECT_EQ(guard, found) << "a write behind an array of " << count_;
    cudaFree(data_);
  }
  DeviceValues(const DeviceValues&) = delete;
  DeviceValues& operator=(const DeviceValues&) = delete;

  T* get() const { return reinterpret_cast<T*>(data_); }
  void poison(int byte = 0xFF) { backend::check_cuda(cudaMemset(data_, byte, bytes()), "poison"); }
  void upload(const std::vector<T>& values) {
    ASSERT_EQ(values.size(), count_);
    backend::check_cuda(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice), "upload");
  }
  std::vector<T> download() const {
    std::vector<T> values(count_);
    backend::check_cuda(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost), "the kernel");
    return values;
  }

 private:
  std::size_t bytes() const { return count_ * sizeof(T); }

  std::size_t count_;
  unsigned char* data_ = nullptr;
};

inline std::vector<float> random_floats(Random& random, std::size_t count, float scale = 1.0f) {
  std::vector<float> values(count);
  for (float& v : values) v = scale * random.normal();
  return values;
}

// Halves as bits, so that nothing rounds on the way.
using HalfBits = std::uint16_t;
inline __half* as_halves(const DeviceValues<HalfBits>& values) {
  return reinterpret_cast<__half*>(values.get());
}
inline std::vector<HalfBits> to_half_bits(const std::vector<float>& values) {
  std::vector<HalfBits> bits;
  for (const float v : values) bits.push_back(codec::half_from_float(v));
  return bits;
}
inline std::vector<float> from_half_bits(const std::vector<HalfBits>& bits) {
  std::vector<float> values;
  for (const HalfBits b : bits) values.push_back(codec::float_from_half(b));
  return values;
}
// What saturating kernels store for v.
inline HalfBits saturated_half_bits(float v) {
  return codec::half_from_float(v > 65504.0f ? 65504.0f : v < -65504.0f ? -65504.0f : v);
}

// A stored matrix, as bytes, and what it holds as floats. `shift`: bytes that it begins behind an aligned address.
struct StoredMatrix {
  std::vector<unsigned char> bytes;
  std::vector<float> values;
  std::size_t shift;

  StoredMatrix(const std::vector<float>& wanted, DenseType type, std::size_t shift_bytes) : shift(shift_bytes) {
    const auto element = static_cast<std::size_t>(dense_type_bytes(type));
    bytes.resize(shift + wanted.size() * element);
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      unsigned char* const to = bytes.data() + shift + i * element;
      if (type == DenseType::kF32) {
        std::memcpy(to, &wanted[i], sizeof(float));
        values.push_back(wanted[i]);
        continue;
      }
      const bool half = type == DenseType::kF16;
      const std::uint16_t bits = half ? codec::half_from_float(wanted[i]) : codec::bfloat_from_float(wanted[i]);
      std::memcpy(to, &bits, sizeof bits);
      values.push_back(half ? codec::float_from_half(bits) : codec::float_from_bfloat(bits));
    }
  }
};

constexpr DenseType kDenseTypes[] = {DenseType::kF32, DenseType::kF16, DenseType::kBf16};

}  // namespace fairway::kernels::cuda::check
