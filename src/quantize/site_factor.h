// A site ready for coding: scales shared with its fellows, and the factors of its Hessian.
#pragma once

#include <map>
#include <string>

#include "quantize/block_ldl.h"
#include "quantize/incoherence.h"
#include "quantize/layer_sites.h"

namespace fairway::quantize {

struct FactorOptions {
  std::uint64_t seed = 0;
  ScaleExponents exponents;
  double damping = 0.01;      // of the mean diagonal of the inner Hessian
  bool shared_inputs = true;  // one suh for all sites with the same scale_name
};

// By scale_name, or by name without shared_inputs.
std::map<std::string, InputScales> scales_of(const std::vector<InputSite>& sites, const FactorOptions& options,
                                             const std::string& model_dir);
const std::string& scale_key(const InputSite& site, const FactorOptions& options);

// Of the Hessian per calibration token: moments divided by `tokens`.
BlockLdl factor(const InputSite& site, const InputScales& scales, double tokens, const FactorOptions& options,
                kernels::KernelContext& context);

// The squared error of the outputs per calibration token, by the mean squared error of the code relative to the
// variance of the inner weights: the predicted error at a width is this times code_profile().mse.
double unit_error(const BlockLdl& ldl, const PlainWeights& weights, const InputScales& scales, std::uint64_t seed);

}  // namespace fairway::quantize
