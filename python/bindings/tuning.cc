// Configurations and results as dictionaries; interruption of benchmarks.
#include "bindings/tuning.h"

#include <fmt/format.h>

#include "fairway/error.h"
#include "select/select.h"

namespace fairway::python {

py::dict config_dict(const select::KernelConfig& config) {
  py::dict dict;
  dict["kernel_name"] = config.kernel_name;
  dict["tile_size_m"] = config.tile_size_m;
  dict["tile_size_n"] = config.tile_size_n;
  dict["simdgroups"] = config.simdgroups;
  dict["use_fp32_acc"] = config.use_fp32_acc;
  dict["kernel_variant"] = config.kernel_variant;
  return dict;
}

select::KernelConfig config_from(const py::dict& dict) {
  return {dict["kernel_name"].cast<std::string>(), dict["tile_size_m"].cast<int>(),
          dict["tile_size_n"].cast<int>(),         dict["simdgroups"].cast<int>(),
          dict["use_fp32_acc"].cast<bool>(),       dict["kernel_variant"].cast<std::string>()};
}

std::vector<select::KernelConfig> configs_from(const std::vector<py::dict>& dicts) {
  std::vector<select::KernelConfig> configs;
  configs.reserve(dicts.size());
  for (const py::dict& dict : dicts) configs.push_back(config_from(dict));
  return configs;
}

py::list result_list(const std::vector<select::BenchmarkResult>& results) {
  py::list list;
  for (const select::BenchmarkResult& result : results) {
    py::dict dict;
    dict["config"] = config_dict(result.config);
    dict["latency_ms"] = result.latency_ms;
    dict["throughput_gbps"] = result.throughput_gbps;
    dict["memory_footprint_mb"] = result.memory_footprint_mb;
    dict["timestamp"] = result.timestamp;
    dict["samples_ms"] = result.samples_ms;
    list.append(dict);
  }
  return list;
}

Interruptible::Interruptible(int warmup, int iterations, py::object progress) : progress_(std::move(progress)) {
  if (warmup < 0 || iterations < 1) {
    throw Error(ErrorKind::kUsage, fmt::format("{} warm-up calls and {} iterations, expected 0 or more and 1 or more",
                                               warmup, iterations));
  }
  options_.warmup = warmup;
  options_.iterations = iterations;
  options_.policy = select::make_policy("", "", "");
  options_.cancel = &cancel_;
  options_.progress = [this](int done, int total, const std::string& what) {
    const py::gil_scoped_acquire held;
    try {
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (!progress_.is_none()) progress_(done, total, what);
    } catch (const py::error_already_set&) {
      raised_ = std::current_exception();
      cancel_.store(true);
    }
  };
}

void Interruptible::rethrow() {
  if (raised_) std::rethrow_exception(raised_);
}

}  // namespace fairway::python
