// Models on a CUDA device for commands that measure: a directory, or a configuration with random weights.
#pragma once

#include <string>

#include "cli/options.h"
#include "cli/output.h"
#include "model/device_model.h"

namespace fairway::cli {

struct DeviceSource {
  std::string model, config, bits = "3";  // exactly one of the first two
  int attention_bits = 3, head_bits = 6;
  std::string codebook = "mul1";
};

// --config, --attention-bits and --head-bits.
void add_random_model_options(CLI::App& command, DeviceSource& source);
// Error(kUsage) unless exactly one of model and config is given.
void check_device_source(const DeviceSource& source);
model::DeviceModel make_device_model(const DeviceSource& source, const model::DeviceModelOptions& options);
Json device_source_json(const DeviceSource& source);

}  // namespace fairway::cli
