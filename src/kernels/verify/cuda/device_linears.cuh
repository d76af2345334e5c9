// Random linear layers that read the same rows, on both sides.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include "kernels/trellis_linear/cuda/trellis_linear_cuda.cuh"
#include "kernels/verify/cuda/device_copies.cuh"

namespace fairway::verify {

class DeviceLinears {
 public:
  struct Matrix {
    int out, bits;
  };
  DeviceLinears(std::mt19937& random, backend::CudaStream& stream, int in, const std::vector<Matrix>& matrices,
                codec::Codebook codebook, int rows);

  const kernels::cuda::LinearCall& call() const { return call_; }
  std::size_t count() const { return outputs_.size(); }
  int columns(std::size_t i) const { return outputs_[i].weights.out_exact(); }
  int bits(std::size_t i) const { return outputs_[i].weights.matrix().bits; }
  const std::vector<float>& expected(std::size_t i) const { return outputs_[i].expected; }  // [rows, columns]

  // Runs the call. One output for each matrix, [rows, columns], without what it was added to. *gap_intact: no column
  // between two rows was written.
  std::vector<std::vector<float>> run(kernels::cuda::LinearPath path, int poison, bool* gap_intact);

 private:
  struct Output {
    RandomTrellis weights;
    std::vector<float> expected, old;  // old: what the product is added to, or empty
  };
  static constexpr int kGap = 3;

  backend::CudaStream& stream_;
  DeviceCopies copies_;
  std::vector<Output> outputs_;
  kernels::cuda::LinearCall call_{};
  void* workspace_ = nullptr;
  std::size_t workspace_bytes_ = 0;
};

}  // namespace fairway::verify
