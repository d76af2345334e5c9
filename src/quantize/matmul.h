// Dense fp32 products on the kernels of the engine.
#pragma once

#include <cstdint>

#include "kernels/common/context.h"
#include "kernels/common/matrix.h"

namespace fairway::quantize {

// c[m, n] = a[m, k] b[n, k]^T, all row-major and contiguous, none overlapping. The bits do not depend on the number of
// threads.
void matmul_nt(const float* a, const float* b, int m, int n, int k, float* c, kernels::KernelContext& context);

// A plain linear layer outside of a forward pass: y[m, weights.out] = x[m, weights.in] W + bias, contiguous rows. The
// weights must not be trellis-coded.
void apply_dense(const kernels::LinearWeights& weights, const float* x, int m, float* y,
                 kernels::KernelContext& context);

}  // namespace fairway::quantize
