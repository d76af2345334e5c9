// What the bindings of both tuners share: configurations and results as dictionaries, and interruption.
#pragma once

#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <atomic>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "select/autotuner.h"

namespace fairway::python {

py::dict config_dict(const select::KernelConfig& config);
select::KernelConfig config_from(const py::dict& dict);
std::vector<select::KernelConfig> configs_from(const std::vector<py::dict>& dicts);
py::list result_list(const std::vector<select::BenchmarkResult>& results);

// Options whose progress callback calls `progress(done, total, what)`, if it is not None, and looks for signals such as
// Ctrl-C: these end the benchmark. Make one with the GIL held; after the benchmark call rethrow() with the GIL held.
class Interruptible {
 public:
  Interruptible(int warmup, int iterations, py::object progress);
  const select::TuneOptions& options() const { return options_; }
  void rethrow();

 private:
  select::TuneOptions options_;
  std::atomic<bool> cancel_{false};
  py::object progress_;
  std::exception_ptr raised_;
};

}  // namespace fairway::python
