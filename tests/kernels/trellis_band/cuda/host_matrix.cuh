// Random coded matrices on the host and on the device, and their products in double precision.
//
// The reference shares nothing with the kernels but the codec's definitions in codec/trellis.h: tiles are decoded to
// dense inner matrices by table, transforms are written as sums of their definition.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "backend/cuda/check.cuh"
#include "kernels/trellis_band/cuda/trellis_ref.cuh"

namespace fairway::kernels::cuda::check {

// splitmix64: the same numbers on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next();
  int below(int n) { return static_cast<int>(next() % static_cast<std::uint64_t>(n)); }
  float uniform(float low, float high);  // [low, high)
  float normal();

 private:
  std::uint64_t state_;
};

// One matrix on the host; inner is decoded, [in][out].
struct HostMatrix {
  int in, out, bits, codebook;
  std::vector<unsigned char> words;
  std::vector<float> suh, svh;  // exact halves
  std::vector<float> inner;

  // y[out] of x[in].
  std::vector<double> apply(const std::vector<double>& x) const;
};

float rounded_to_half(float v);
std::vector<__half> to_halves(const std::vector<float>& values);

// n exact halves of both signs, their magnitudes within half and one and a half of `size`.
std::vector<float> random_scales(Random& random, int n, float size);

// bits 0: random, 1..8. codebook -1: random. suh null: random. One of svh is zero.
HostMatrix random_matrix(Random& random, int in, int out, int bits, int codebook, const std::vector<float>* suh);

// Device memory, freed with this. Every array is an allocation of its own, so that compute-sanitizer sees reads beyond
// it.
class DeviceData {
 public:
  DeviceData() = default;
  ~DeviceData();
  DeviceData(const DeviceData&) = delete;
  DeviceData& operator=(const DeviceData&) = delete;

  template <typename T>
  T* upload(const std::vector<T>& values) {
    T* p = static_cast<T*>(allocate(values.size() * sizeof(T)));
    backend::check_cuda(cudaMemcpy(p, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
    return p;
  }
  void* allocate(std::size_t bytes) {
    void* p = nullptr;
    backend::check_cuda(cudaMalloc(&p, bytes), "cudaMalloc");
    allocations_.push_back(p);
    return p;
  }
  // suh: on the device already, or null.
  TrellisRef matrix(const HostMatrix& m, const __half* suh);

 private:
  std::vector<void*> allocations_;
};

}  // namespace fairway::kernels::cuda::check
