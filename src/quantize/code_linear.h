// One matrix from plain weights to EXL3 tensors.
#pragma once

#include <atomic>
#include <functional>

#include "quantize/incoherence.h"
#include "quantize/ldlq.h"
#include "quantize/quantized_linear.h"

namespace fairway::quantize {

// How far the coded matrix is from the plain one, in the outputs that calibration inputs would see.
struct CodingFacts {
  double error = 0;     // sum over outputs of the squared error, per unit of the moments' weight
  double relative = 0;  // of it to the sum of the squared outputs
};

struct CodedLinear {
  QuantizedLinear linear;
  CodingFacts facts;
};

// moments and ldl: of the input that the matrix reads (ldl of inner_hessian with the same scales). Output scales are
// fitted again after coding, each to its own output.
CodedLinear code_linear(const PlainWeights& weights, const InputScales& scales, const Moments& moments,
                        const BlockLdl& ldl, int bits, std::uint64_t seed, TileCoders& coders,
                        kernels::KernelContext& context, const std::function<void()>& after_column = {},
                        const std::atomic<bool>* cancel = nullptr);

}  // namespace fairway::quantize
