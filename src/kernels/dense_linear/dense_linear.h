// dense_linear: y[M, out] = x[M, in] W^T + bias for a stored [out, in] matrix of f32, f16 or bf16, fp32 arithmetic.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/context.h"
#include "kernels/common/matrix.h"
#include "kernels/common/registry.h"

namespace fairway::kernels {

// x: [m, in], row stride ldx; y: [m, out], row stride ldy (elements). x and y must not overlap.
struct DenseLinearArgs {
  const DenseMatrix* matrix;
  const float* x;
  std::int64_t ldx;
  float* y;
  std::int64_t ldy;
  int m;
};

using DenseLinearFn = void (*)(const DenseLinearArgs& args, KernelContext& context);

struct DenseLinearRow {
  KernelRow info;
  DenseLinearFn fn;
};

std::span<const DenseLinearRow> dense_linear_rows();

// Row `row` of the stored matrix, the weights of one output, as floats: out[matrix.in].
void read_dense_row(const DenseMatrix& matrix, std::int64_t row, float* out);

}  // namespace fairway::kernels
