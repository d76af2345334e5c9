// `fairway autotune --device cuda`: the fastest paths of the CUDA kernels for one model, as a table.
#pragma once

#include <vector>

#include "cli/device_source.h"

namespace fairway::cli {

struct DeviceTuneOptions {
  DeviceSource source;
  DeviceOptions device;
  std::vector<int> rows;      // empty: powers of 2 up to 1024
  int rounds = 0;             // 0: 9
  double budget_seconds = 0;  // of the tuning, without loading; 0: 20
  std::string output;         // file; "": cuda-paths.json
};

// Exit code of the program.
int autotune_device(const DeviceTuneOptions& options, bool json);

}  // namespace fairway::cli
