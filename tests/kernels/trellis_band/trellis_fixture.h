// Random weights and bounds under the names that the kernel tests use; they live with `fairway verify`.
#pragma once

#include "kernels/verify/error_bound.h"
#include "kernels/verify/random_weights.h"

namespace fairway::test {

using verify::GuardedBytes;
using verify::kBytesError;
using verify::kPairsError;
using verify::padded;
using verify::poison;
using verify::product_error;
using verify::random_normal;
using verify::RandomDense;
using verify::RandomTrellis;
using verify::still_poison;

// Any of those that the row reads, mul1 if it is among them.
inline codec::Codebook codebook_of(const kernels::KernelRow& row) {
  return row.codebooks & kernels::codebook_bit(codec::Codebook::kMul1) ? codec::Codebook::kMul1 : codec::Codebook::kMcg;
}

}  // namespace fairway::test
