// A plain linear layer outside of a forward pass.
#pragma once

#include "kernels/common/context.h"
#include "kernels/common/matrix.h"

namespace fairway::quantize {

// y[m, weights.out] = x[m, weights.in] W + bias, contiguous rows. The weights must not be trellis-coded.
void apply_dense(const kernels::LinearWeights& weights, const float* x, int m, float* y,
                 kernels::KernelContext& context);

}  // namespace fairway::quantize
