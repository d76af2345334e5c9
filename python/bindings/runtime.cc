// Threads, memory pressure, and the command line inside Python.
#include <fmt/format.h>
#include <pybind11/stl.h>

#include <vector>

#include "backend/cpu/features.h"
#include "backend/cpu/memory_pressure.h"
#include "bindings/bindings.h"
#include "cli/cli.h"
#include "fairway/error.h"
#include "select/kernel_selector.h"

namespace fairway::python {

Runtime& Runtime::get() {
  static Runtime* const runtime = new Runtime;  // not destroyed: its threads may outlive the interpreter's last call
  return *runtime;
}

void Runtime::set_threads(int threads) {
  if (threads < 0) throw Error(ErrorKind::kUsage, fmt::format("{} threads, expected 0 or more", threads));
  const std::lock_guard lock(mutex_);
  pool_ = std::make_unique<backend::ThreadPool>(threads);
  policies_.clear();
}

int Runtime::threads() {
  const std::lock_guard lock(mutex_);
  return pool_->size();
}

const select::Policy& Runtime::Session::policy(const std::string& kernel) {
  const auto found = runtime_.policies_.find(kernel);
  if (found != runtime_.policies_.end()) return found->second;
  select::Policy policy = select::make_policy("", "", kernel);
  select::attach_selector(policy, context_.pool.size());
  return runtime_.policies_.emplace(kernel, std::move(policy)).first->second;
}

int rows_of(const FloatArray& x, int columns, const char* what) {
  if (x.ndim() != 2 || x.shape(0) < 1 || x.shape(0) > 1 << 20 || x.shape(1) != columns) {
    std::string shape;
    for (py::ssize_t i = 0; i < x.ndim(); ++i) shape += fmt::format("{}{}", i == 0 ? "" : ", ", x.shape(i));
    throw Error(ErrorKind::kUsage,
                fmt::format("{} has shape [{}], expected [M, {}] with M of 1 to {}", what, shape, columns, 1 << 20));
  }
  return static_cast<int>(x.shape(0));
}

void bind_runtime(py::module_& module) {
  const auto released = py::call_guard<py::gil_scoped_release>();
  module.attr("version") = cli::kVersion;
  module.def(
      "set_threads", [](int threads) { Runtime::get().set_threads(threads); }, py::arg("threads"), released);
  module.def(
      "threads", [] { return Runtime::get().threads(); }, released);
  module.def("memory_pressure", &backend::memory_pressure);
  module.def("cpu_features", [] { return backend::cpu_feature_names(backend::cpu_info().features); });
  module.def(
      "run_command",
      [](const std::vector<std::string>& arguments) {
        std::vector<const char*> argv{"fairway"};
        for (const std::string& argument : arguments) argv.push_back(argument.c_str());
        return cli::run_cli(static_cast<int>(argv.size()), argv.data());
      },
      py::arg("arguments"), released);
}

}  // namespace fairway::python
