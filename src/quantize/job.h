// A quantization from a source model to a finished directory: what identifies it, and its steps in order.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "quantize/allocate.h"
#include "quantize/assemble.h"
#include "quantize/code_model.h"
#include "quantize/measure_sensitivity.h"

namespace fairway::quantize {

struct JobOptions {
  std::filesystem::path model, out;
  std::filesystem::path library;  // coded matrices to take and to keep (part_library.h); empty: none
  std::vector<int> ids;           // calibration tokens, windows one after another
  std::string calibration;        // what they came from, for the manifest
  CalibrationOptions windows;
  FactorOptions factor;
  codec::Codebook codebook = codec::Codebook::kMul1;
  std::string version, revision;  // of the program
  bool force = false;             // discard an unfinished job with other options; replace `out`
};

// Error(kUnsupported) naming the first matrix that is trellis-coded already; errors of read_source_config.
void check_source(const model::Model& model, const std::filesystem::path& model_dir);

// All matrices that are coded, in file order.
std::vector<std::string> coded_prefixes(const model::Model& model);

// Bytes of the tensors that are stored as they are: an embedding in its own type, norms, router and the like.
std::int64_t fixed_bytes(const model::Model& model);

// The folder of an unfinished job: OUT.partial beside OUT.
std::filesystem::path work_folder(const std::filesystem::path& out);

// Codes what is not coded yet and assembles the directory. The report has each matrix, also those that an earlier run
// coded, unless that run has finished `out` already: then nothing is left to do but to remove its parts.
// progress(share, what).
struct JobReport {
  AssemblyReport assembly;
  std::vector<std::pair<std::string, nlohmann::ordered_json>> matrices;  // facts by module key, in file order
  std::size_t resumed = 0;                                               // matrices that an earlier run had coded
  std::size_t reused = 0;                                                // matrices that the library had
  CodeSeconds seconds;
  double assembly_seconds = 0;
  std::vector<std::string> discarded;  // "PATH: reason" of parts of that run that were not usable
};
JobReport run_job(const model::Model& model, const JobOptions& options, const BitPlan& plan,
                  const select::Policy& policy, kernels::KernelContext& context,
                  const std::function<void(double, const std::string&)>& progress);

}  // namespace fairway::quantize
