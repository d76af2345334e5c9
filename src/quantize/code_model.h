// All matrices of a model, coded by a plan and put where they survive an interruption.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "quantize/calibration.h"
#include "quantize/code_linear.h"
#include "quantize/site_factor.h"

namespace fairway::quantize {

struct CodeOptions {
  std::vector<std::string> prefixes;  // all matrices that are coded
  CalibrationOptions calibration;
  FactorOptions factor;
  codec::Codebook codebook = codec::Codebook::kMul1;
};

// What is known of a matrix once it is coded.
struct MatrixReport {
  CodingFacts facts;
  std::int64_t rows = 0;     // calibration rows that reached it
  bool borrowed = false;     // and rows of other experts, for want of its own
  std::int64_t dropped = 0;  // rows with values that were not finite
};

// What code_model needs of its surroundings.
struct CodeSink {
  std::function<int(const std::string& prefix)> width;     // 1..8 of a module key
  std::function<bool(const std::string& prefix)> is_done;  // by an earlier run
  std::function<void(const CodedLinear& linear, const MatrixReport& report)> done;
  std::function<void(double share, const std::string& what)> progress;  // may be called by any thread; may be empty
};

// Where the time of code_model went.
struct CodeSeconds {
  double calibration = 0;  // running the plain model and summing moments
  double factors = 0;      // input scales, Hessians and their LDL factors
  double coding = 0;       // LDLQ with the search of tiles, fit of the output scales, writing of parts
};

// Every matrix that sink.is_done() does not know. Error(kCancelled) if options.calibration.cancel is set.
CodeSeconds code_model(const model::Model& model, const std::string& model_dir, std::vector<int> ids,
                       const CodeOptions& options, const CodeSink& sink, const select::Policy& policy,
                       kernels::KernelContext& context);

}  // namespace fairway::quantize
