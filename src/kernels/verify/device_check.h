// Runs the CUDA rows of moe_swiglu and trellis_linear on random problems and compares them with the scalar reference of
// the host. Compiles without a CUDA toolkit.
//
// A round has, for each codebook and for all of them together, a layer whose experts have all widths from 1 to 8 in
// each projection, some of its slots unused, called with few and with many tokens; and for each codebook and width a
// call of two linear layers, the second of another width, and if that has more than four rows, another one of up to
// four. Sizes are random, with and without remainders of 128. Outputs and scratch are poisoned before every call, and a
// second call after another poison must give the same bits.
#pragma once

#include <set>
#include <span>
#include <string>
#include <vector>

#include "kernels/common/cuda_rows.h"
#include "kernels/verify/row_checker.h"

namespace fairway::verify {

// Norm of the error of a row of results, relative to its norm: inputs of every matrix are rounded to halves after their
// transform (2^-12 relative at most, two layers of experts), the integer paths add 15-bit fixed point and the affine
// form of mul1 (2e-4).
constexpr double kDeviceRowError = 0.003;

// Bounds of the random sizes; a test under an emulator takes smaller ones.
struct DeviceCheckSizes {
  int most_tokens = 70, most_linear_rows = 130;
  int most_size = 400;  // inputs and outputs of a matrix, at least 128
  // Calls of up to four linear layers instead that have all widths together, a quarter as many.
  bool widths_together = false;
};

struct DeviceRowReport {
  const kernels::CudaRow* row = nullptr;
  int calls = 0;
  std::set<int> widths;
  std::uint8_t codebooks = 0;  // union of codebook_bit
  int most_tokens = 0;         // of one call
  double worst_error = 0, bound = kDeviceRowError;
  std::string mismatch;  // the first one, with its values; empty: none
};

// The rows that can be checked: of moe_swiglu and of trellis_linear.
std::vector<const kernels::CudaRow*> checkable_cuda_rows();

// A report for each row; all must run on the device. A row stops at its first mismatch; all stop when cancelled. Throws
// as kernels::cuda::require_gpu() does.
std::vector<DeviceRowReport> check_cuda_rows(std::span<const kernels::CudaRow* const> rows, int device,
                                             const CheckOptions& options, const DeviceCheckSizes& sizes = {});

}  // namespace fairway::verify
