// rms_norm: y[M, N] = x / sqrt(mean(x^2) + eps) * weight, row by row.
#pragma once

#include <cstdint>

namespace fairway::kernels {

// x and y: m rows of n values with strides ldx, ldy (elements); y may be x. The sum of squares is taken in double, so
// the result does not depend on how a compiler vectorises it.
void rms_norm(const float* x, std::int64_t ldx, const float* weight, float eps, int m, int n, float* y,
              std::int64_t ldy);

}  // namespace fairway::kernels
