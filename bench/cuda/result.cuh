// The result file of the benchmark.
#pragma once

#include <string>
#include <vector>

#include "cuda/layers.cuh"

namespace fairway::kernels::cuda::bench {

struct Record {
  const Case* of;
  int tokens;
  MoePath path;
  bool is_default;
  double bytes;                // of weights one token reads
  std::vector<float> samples;  // microseconds per layer, sorted
  float median() const { return samples[samples.size() / 2]; }
};

// command: the program, the file to write, the revision, options. Error(kResource) if the file cannot be written.
void write_result(const std::vector<std::string>& command, double copy_bytes_per_second,
                  const std::vector<Record>& records);

}  // namespace fairway::kernels::cuda::bench
