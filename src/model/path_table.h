// Which path of the CUDA kernels computes which call, as measured on one GPU by `fairway autotune --device`. Compiles
// without a CUDA toolkit.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/common/cuda_rows.h"

namespace fairway::model {

// What a table holds for. Only another GPU makes it useless; the rest is for its readers.
struct PathStamp {
  std::string gpu, driver, compiled_for;
};
// Throws as backend::require_cuda_device() does.
PathStamp this_path_stamp(int device);

struct PathEntry {
  std::string shape;  // of the call without its rows, as DevicePass writes it
  int rows = 0;
  const kernels::CudaRow* row = nullptr;  // the fastest
  const kernels::CudaRow* default_row = nullptr;
  double us = 0, default_us = 0;  // medians of one call
  int samples = 0;                // of each path

  double margin() const { return default_us > 0 ? 1 - us / default_us : 0; }  // share of the default's time
};

class PathTable {
 public:
  PathStamp stamp;
  std::string revision, date;
  std::vector<PathEntry> entries;

  // The row for a call of an op: the entry of its shape with the most rows that are not more than `rows`; null if there
  // is none.
  const kernels::CudaRow* find(std::string_view op, std::string_view shape, int rows) const;

  std::string json_text() const;
  // Error(kBadInput) that starts with `name` for anything but a table.
  static PathTable parse(const std::string& text, const std::string& name);
  // The table in a file. Error(kBadInput) too if it cannot be read or is of another GPU than the device.
  static PathTable load(const std::filesystem::path& path, int device);
};

}  // namespace fairway::model
