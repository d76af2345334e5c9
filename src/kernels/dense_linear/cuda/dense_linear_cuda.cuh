// One linear layer whose weights are stored as they are: y[r] = W x[r] + bias, or added to what is in y.
//
// Up to 4 rows: a warp has rows of W, which are read once; products and sums in fp32, in an order that depends only on
// `in`. More rows: tensor instructions on halves with fp32 sums; there F16 weights are exact, BF16 weights are rounded
// to halves (saturating; relative 0 from 6.1e-5 to 65504 in magnitude, absolute 3e-8 below), and F32 weights
// stay on the path of few rows, eight rows at a time.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/common/matrix.h"

namespace fairway::kernels::cuda {

// Device pointers, strides in elements.
struct DenseLinearCall {
  const void* weight;  // [out, in] row-major, 2-byte aligned (16 is faster)
  DenseType type;
  int in, out;        // >= 1
  const float* bias;  // [out] or null
  const __half* x;    // [rows, in], row stride ldx >= in
  long long ldx;
  int rows;  // 1..524280
  float* y;  // [rows, out], row stride ldy >= out
  long long ldy;
  bool add;  // y += instead of y =
};

// Error(kUsage) if a number is out of range.
void dense_linear(const DenseLinearCall& call, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
