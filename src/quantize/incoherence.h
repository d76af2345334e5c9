// The two-sided transform of EXL3: from weights to the inner matrix that is coded, and the Hessian that belongs to it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/common/context.h"
#include "quantize/moments.h"

namespace fairway::quantize {

// The weights of one linear layer, padded with zeros: [out, in] row-major, as checkpoints store it.
struct PlainWeights {
  std::string prefix;
  int in = 0, out = 0;  // multiples of 128
  std::vector<float> values;
};

// suh: input scales with signs as they will be stored, rounded to halves. All matrices that read the same input may
// share it. magnitude k is rms_k^a * h_k^-b over the group, with rms_k the root mean square of the weights of input k,
// h_k the root mean square of that input, exponents below; the root mean square of all is that of the weights.
struct InputScales {
  std::vector<float> suh;  // [in], half values
};

// How much scales follow the weights and the inputs. Noise of one size in every input of a 128-block becomes suh_k
// times that size in input k. a = 1, b = 0 makes every row of the inner matrix equally large, which is right if
// feedback moves all error to where it costs least; a = b = 1/2 minimises the error without feedback (Cauchy and
// Schwarz). Feedback in blocks of 16 is between the two: on two layers of a 47 M parameter model, at 3 bits, the error
// of (3/4, 1/4) was 1 and 4 % below that of (1, 0), and that of (1/2, 1/2) 2 % above and 3 % below.
struct ScaleExponents {
  double weights = 0.75, inputs = 0.25;
};

// What input_scales needs to know of the matrices that will share the scales and of their inputs, summed one by one.
struct InputPower {
  explicit InputPower(int in) : weights(static_cast<std::size_t>(in)), inputs(weights.size()) {}
  std::vector<double> weights, inputs;  // [in], sums of squares
  std::int64_t outputs = 0;
  double rows = 0;

  void add(const PlainWeights& matrix);
  void add(const Moments& moments);
};

InputScales input_scales(const std::string& name, std::uint64_t seed, const InputPower& power,
                         ScaleExponents exponents);

// svh: signs times the root of each output's root mean square (the choice that minimises the summed error of the
// outputs), divided by `gain`, rounded to halves. Zero for an output whose weights are all zero.
std::vector<float> output_scales(std::uint64_t seed, const PlainWeights& weights, const InputScales& input,
                                 double gain);

// inner^T, [out, in]: H diag(1/suh) W diag(1/svh) H transposed, in units of the codebook's values.
std::vector<float> inner_weights(const PlainWeights& weights, const InputScales& input, const std::vector<float>& svh,
                                 kernels::KernelContext& context);

// The way back: [out, in] weights of an inner matrix.
std::vector<float> outer_weights(const std::vector<float>& inner, int in, int out, const std::vector<float>& suh,
                                 const std::vector<float>& svh, kernels::KernelContext& context);

// H diag(suh) M diag(suh) H, divided by `divisor`: [in, in].
std::vector<double> inner_hessian(const Moments& moments, double divisor, const InputScales& input,
                                  kernels::KernelContext& context);

}  // namespace fairway::quantize
