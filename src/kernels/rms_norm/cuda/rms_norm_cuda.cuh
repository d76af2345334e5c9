// RMS norm of fp32 rows with the residual addition before it, into halves that linear layers read.
//
//   x[r] += add[r]                                                    if add
//   out[r, 0..n) = half(x[r] / sqrt(mean(x[r]^2) + eps) * weight)     saturated to +-65504; NaN stays NaN
//   out[r, n..padded) = 0
//
// Sums are fp32 in one fixed order, so two calls give the same bits; the CPU's rms_norm sums in double.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <string_view>

namespace fairway::kernels::cuda {

// Strides are in elements. Device pointers; 16-byte aligned ones with strides that are multiples of 8 are faster.
struct NormCall {
  float* x;  // [rows, n], row stride ldx >= n; written only if there is something to add
  long long ldx;
  const float* add;  // [rows, n], row stride ldadd, or null; must not overlap x
  long long ldadd;
  const float* weight;  // [n]
  float eps;
  int n, rows;  // n: 1..16384; rows: >= 1
  __half* out;  // [rows, padded], row stride ldo >= padded
  long long ldo;
  int padded;            // n..16384
  float* out_fp32;       // [rows, n] without gaps, before rounding to halves, or null
  bool keeps_x = false;  // x is not written; of rms_norm() only
};

// Error(kUsage) if a number is out of range, Error(kUnsupported) if n or padded is above 16384.
void rms_norm(const NormCall& call, cudaStream_t stream);

// For kernels that have the norm in front: throws as rms_norm() does, with `who` first in the message.
void check_norm(const NormCall& call, std::string_view who);
// Whether rows can be read and written in aligned chunks of eight, see kernels/common/cuda/chunk.cuh.
bool norm_is_aligned(const NormCall& call);

}  // namespace fairway::kernels::cuda
