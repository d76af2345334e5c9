// From finished matrices to a model directory that loads in every EXL3 engine.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "quantize/checkpoint_config.h"
#include "quantize/part_store.h"

namespace fairway::quantize {

struct AssemblyReport {
  std::filesystem::path out;
  std::int64_t bytes = 0;  // of all files
  int files = 0, tensors = 0;
  std::vector<std::string> left_out;  // tensors of the source that the architecture does not name
  std::int64_t left_out_bytes = 0;
  bool was_complete = false;  // OUT was there already, made by this very job; nothing was written
};

// The report of `out` if `job` (PartStore::job) has finished it before; what the job left beside it, if it was killed
// after that, is removed.
std::optional<AssemblyReport> find_complete(const std::filesystem::path& out, const std::string& job);

// Writes `out`: the matrices `prefixes` from `parts`, everything else that the architecture names from `source`
// (assembly_plan.h has the types), config.json, quantization_config.json, the tokenizer's and other small files, and
// fairway-manifest.json. It is written beside `out` and renamed when it is complete and was checked as a model that
// loads. The bytes depend on source, parts and facts alone. An `out` that this job finished before is left as it is,
// unless `force`. `progress` gets a share from 0 to 1 and a file name. Errors: as of check_destination, plan_assembly
// and SourceTensor, Error(kResource) with the bytes needed if the disk is too small, Error(kCancelled).
AssemblyReport assemble(const std::filesystem::path& source, const PartStore& parts,
                        const std::vector<std::string>& prefixes, const CheckpointFacts& facts,
                        const std::filesystem::path& out, bool force,
                        const std::function<void(double share, const std::string& what)>& progress,
                        const std::atomic<bool>* cancel);

}  // namespace fairway::quantize
