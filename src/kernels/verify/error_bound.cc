// The bounds of trellis rows.
#include "kernels/verify/error_bound.h"

#include <cmath>

namespace fairway::verify {

using kernels::Activations;
using kernels::KernelRow;
using kernels::WeightCodes;

// Exact values with fp32 activations: k products of relative error 2^-24 each and the same for the partial sums, in the
// worst case of random signs a few times sqrt(k); the transforms keep norms. fp16: products and sums of a block in half
// precision, see trellis_band/f16_avx512fp16.cc. int8: a block's step is amax / 127, and amax of 128 Gaussian values
// stays below 4.5 deviations, so the rounding error stays below 4.5 / 127 / sqrt(12) = 1.02 % of the norm; the error of
// the codes adds in quadrature; norms of 128 values move by a quarter (four times 1 / sqrt(2 * 128)).
double product_error(const KernelRow& row, int k) {
  if (row.activations == Activations::kFp32) return (4 * std::sqrt(static_cast<double>(k)) + 8) * std::ldexp(1.0, -24);
  if (row.activations == Activations::kFp16 && row.codes == WeightCodes::kExact) return 0.0025;
  // Codes of one byte come with scales for 64 inputs, and the norms of such short pieces scatter more.
  const bool bytes = row.codes == WeightCodes::kBytes;
  const double codes = bytes ? kBytesError : row.codes == WeightCodes::kPairs ? kPairsError : 0;
  return (bytes ? 1.5 : 1.25) * std::hypot(4.5 / 127 / std::sqrt(12.0), codes);
}

Bound linear_bound(const KernelRow& row, int k) {
  return {.row_relative = product_error(row, k)};
}

// Errors of gate and up add to that of down: sqrt(3) times; silu passes up to 1.1 times the error of a gate, and small
// gates have larger relative errors.
Bound expert_bound(const KernelRow& row, int k) {
  if (row.activations != Activations::kFp32) return {.row_relative = 1.1 * std::sqrt(3.0) * product_error(row, k)};
  return {.row_relative = 4 * (4 * std::sqrt(static_cast<double>(k)) + 16) * std::ldexp(1.0, -24)};
}

}  // namespace fairway::verify
