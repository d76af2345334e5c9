// How far the results of a row may lie from those of the reference: derived from what the row reads, never tuned.
#pragma once

#include "kernels/common/registry.h"
#include "kernels/verify/compare.h"

namespace fairway::verify {

// Of a weight read as a sum of two bytes, and as one byte, relative to the deviation of the codebook's values
// (kernels/trellis_band/mul1_codes.h, f16_avx512fp16.cc).
constexpr double kPairsError = 0.7072 / 147.82, kBytesError = 1.1181 / 147.82;

// What one product of k inputs with Gaussian rows may be wrong by, relative to the norm of a row of results.
double product_error(const kernels::KernelRow& row, int k);

// Of a row of trellis_linear, and of a row of moe_swiglu. k: the most inputs of a matrix, padded.
Bound linear_bound(const kernels::KernelRow& row, int k);
Bound expert_bound(const kernels::KernelRow& row, int k);

}  // namespace fairway::verify
