// `fairway bench selection --device cuda`: how far from the fastest paths of the CUDA kernels rules and a tuned table
// are.
#pragma once

#include <string>
#include <vector>

#include "cli/options.h"

namespace fairway::cli {

struct DeviceSelectionOptions {
  DeviceOptions device;
  std::vector<std::string> configs;  // config.json of each geometry
  std::vector<std::string> bits = {
      "4", "6,2,3;6,3,4;2,2,2;2,2,2"};  // of experts, as `bench device` takes them; every geometry with every one
  std::string codebook = "mul1";
  std::vector<int> rows;  // empty: 15 numbers from 1 to 1024
  int rounds = 7;         // samples that choose, and as many that judge
  double seconds = 9;     // of a model, at most, without its making
  std::string output;
};

// Exit code of the program. Error(kUsage) without a geometry.
int bench_device_selection(DeviceSelectionOptions options, bool json);

}  // namespace fairway::cli
