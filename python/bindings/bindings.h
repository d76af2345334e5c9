// The parts of the module fairway._fairway, one function per topic, and what they share.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "backend/cpu/thread_pool.h"
#include "backend/cpu/workspace.h"
#include "kernels/common/context.h"
#include "select/select.h"

namespace fairway::python {

namespace py = pybind11;

// Rows of float32, C order; other types and layouts are converted.
using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;
using IndexArray = py::array_t<std::int32_t, py::array::c_style | py::array::forcecast>;

// The threads and scratch memory that all calls of this process share.
class Runtime {
 public:
  static Runtime& get();

  // Serialises calls: take it with the GIL released, or a thread that waits here would block the one that works.
  class Session {
   public:
    explicit Session(Runtime& runtime)
        : runtime_(runtime), lock_(runtime.mutex_), context_{*runtime.pool_, runtime.workspace_} {}
    kernels::KernelContext& context() { return context_; }
    // What forces that kernel, or "": nothing. Made once per kernel; its selector knows the calls it met.
    const select::Policy& policy(const std::string& kernel);

   private:
    Runtime& runtime_;
    std::unique_lock<std::mutex> lock_;
    kernels::KernelContext context_;
  };

  void set_threads(int threads);  // 0: one per processor
  int threads();

 private:
  std::mutex mutex_;
  std::unique_ptr<backend::ThreadPool> pool_ = std::make_unique<backend::ThreadPool>(0);
  backend::Workspace workspace_;
  std::map<std::string, select::Policy> policies_;
};

// Error(kUsage) unless x is [m, columns] with m >= 1; returns m.
int rows_of(const FloatArray& x, int columns, const char* what);

void bind_errors(py::module_& module);
void bind_runtime(py::module_& module);
void bind_names(py::module_& module);
void bind_selector(py::module_& module);
void bind_model(py::module_& module);
void bind_moe(py::module_& module);
void bind_linear_tuner(py::module_& module);
void bind_autotuner(py::module_& module);

}  // namespace fairway::python
