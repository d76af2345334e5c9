// Dense fp32 products on the kernels of the engine.
#pragma once

#include <cstdint>

#include "kernels/common/context.h"

namespace fairway::quantize {

// c[m, n] = a[m, k] b[n, k]^T, all row-major and contiguous, none overlapping. The bits do not depend on the number of
// threads.
void matmul_nt(const float* a, const float* b, int m, int n, int k, float* c, kernels::KernelContext& context);

}  // namespace fairway::quantize
