// An allocation of its own on the current device, so that a checker of memory sees where it ends.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <vector>

#include "backend/cuda/check.cuh"

namespace fairway::kernels::cuda::check {

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t count) : count_(count) {
    backend::check_cuda(cudaMalloc(&data_, count * sizeof(T)), "cudaMalloc");
    fill(0xFF);
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { set(values); }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* get() const { return static_cast<T*>(data_); }
  void fill(int byte) { backend::check_cuda(cudaMemset(data_, byte, count_ * sizeof(T)), "poison"); }
  void set(const std::vector<T>& values) {
    backend::check_cuda(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }
  // Waits for everything that was queued before.
  std::vector<T> values() const {
    std::vector<T> all(count_);
    backend::check_cuda(cudaDeviceSynchronize(), "a kernel of the test");
    backend::check_cuda(cudaMemcpy(all.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "download");
    return all;
  }

 private:
  void* data_ = nullptr;
  std::size_t count_;
};

}  // namespace fairway::kernels::cuda::check
