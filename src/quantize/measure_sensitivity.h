// What each width of each matrix costs: predicted from Hessians, in units that are measured on the model's predictions.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "quantize/calibration.h"
#include "quantize/sensitivity.h"
#include "quantize/site_factor.h"

namespace fairway::quantize {

struct SensitivityOptions {
  CalibrationOptions calibration;
  FactorOptions factor;
  codec::Codebook codebook = codec::Codebook::kMul1;
  int probe_windows = 4;  // the divergence is measured on so many windows,
  int probe_stride = 4;   // at every so many tokens of them
  int probe_bits = 3;     // with noise as large as the error of this width
};

// The matrices of one part of one layer (all experts' gate projections, say) get noise shaped like the error of LDLQ;
// the divergence that follows, over the error that was predicted for them, is what a unit of predicted error costs in
// this part. So losses of experts compare by their Hessians, which count how often and with what weight the router
// takes them, and losses of parts and layers by measurement.
// progress(share, what). model_dir: for messages.
ModelSensitivity measure_sensitivity(const model::Model& model, const std::string& model_dir, std::vector<int> ids,
                                     const SensitivityOptions& options, const select::Policy& policy,
                                     kernels::KernelContext& context,
                                     const std::function<void(double, const std::string&)>& progress = {});

}  // namespace fairway::quantize
