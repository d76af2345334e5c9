// What `fairway compare` measured, and its table and JSON.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/options.h"
#include "cli/output.h"
#include "cli/selection.h"
#include "cli/windows.h"
#include "engine/compare.h"

namespace fairway::cli {

struct CompareOptions {
  std::vector<std::string> models;  // as given; the reference first
  WindowOptions windows;
  int threads = 0, layer_windows = 4;
  std::string output;
  KernelOptions kernels;
  StartOptions start;
};

struct CompareRun {
  const CompareOptions& options;
  const std::vector<engine::Engine>& engines;  // of options.models
  WindowPlan plan;
  const engine::Comparison& comparison;
  double seconds;  // of all windows, statistics included
  bool cancelled;
};

// The last component of each path, or the whole path where that is not unique.
std::vector<std::string> short_names(const std::vector<std::string>& models);

// At least one window was compared.
std::string compare_text(const CompareRun& run);
// Measured values are null if no window was compared.
Json compare_json(const CompareRun& run);

}  // namespace fairway::cli
