// The tokens that calibration runs on: windows out of a text or an array of ids.
#pragma once

#include <string>
#include <vector>

#include "cli/options.h"
#include "formats/config.h"

namespace fairway::cli {

struct CalibrationSource {
  std::string text, ids;  // files; at most one of them
  int tokens = 98304, window = 1024;

  bool empty() const { return text.empty() && ids.empty(); }
  std::string name() const;  // of the file, without its folder
};

// --calibration, --calibration-ids, --calibration-tokens, --calibration-window.
void add_calibration_options(CLI::App& command, CalibrationSource& source);

// The source's calibration_windows(), none longer than the model's positions. Error(kBadInput) names the file if it has
// no tokens or ids that the model does not have.
std::vector<int> calibration_ids(const CalibrationSource& source, const std::string& model_dir,
                                 const formats::ModelConfig& config);

}  // namespace fairway::cli
