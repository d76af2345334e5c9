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

// Why an entry has its row.
enum class PathReason {
  kFastest,  // the default's median is the lowest
  kTie,      // another one's is lower, but not beyond doubt or not by enough
  kBeaten,   // the default was slower beyond doubt
  kTogether  // it was, but all replaced paths together did not beat the defaults
};
const char* path_reason_text(PathReason reason);

// Microseconds are what one call adds to a chain of layers: the time of the chain less that of the chain without calls
// of the shape, divided by their number; of a prompt, the time of the default's calls alone, and what the chain gains
// or loses by another path. Medians of levelled samples (select/verdict.h).
struct PathTime {
  const kernels::CudaRow* row = nullptr;
  double us = 0;
  int samples = 0;
};

struct PathEntry {
  std::string shape;  // of the call without its rows, as DevicePass writes it
  int rows = 0;
  const kernels::CudaRow* row = nullptr;          // to take
  const kernels::CudaRow* default_row = nullptr;  // what the rules took
  double us = 0, default_us = 0;
  int samples = 0;  // of the default
  PathReason reason = PathReason::kFastest;
  std::vector<PathTime> measured = {};  // every path that was timed, the default first
  double spread = 0;                    // path_spread() of the default's samples; not in a table's file

  double margin() const { return default_us > 0 ? 1 - us / default_us : 0; }  // share of the default's time
};

// A chain of layers of the model as decoded, or above the most sequences as a prompt, by the rules and by the table.
struct PathChain {
  int rows = 0, layers = 0;
  double default_us = 0, us = 0;  // of the whole chain, medians
};

class PathTable {
 public:
  PathStamp stamp;
  std::string revision, date;
  std::vector<PathEntry> entries;
  std::vector<PathChain> chains;

  // The entry of a call of an op: that of its shape with the most rows that are not more than `rows`; null if there is
  // none.
  const PathEntry* find(std::string_view op, std::string_view shape, int rows) const;

  std::string json_text() const;
  // Error(kBadInput) that starts with `name` for anything but a table.
  static PathTable parse(const std::string& text, const std::string& name);
  // The table in a file. Error(kBadInput) too if it cannot be read or is of another GPU than the device.
  static PathTable load(const std::filesystem::path& path, int device);
};

}  // namespace fairway::model
