// The extension module fairway._fairway. Names and docstrings for users are in python/fairway/.
#include "bindings/bindings.h"

PYBIND11_MODULE(_fairway, module) {
  module.doc() = "C++ side of the package fairway; import fairway instead.";
  fairway::python::bind_errors(module);
  fairway::python::bind_runtime(module);
  fairway::python::bind_names(module);
  fairway::python::bind_selector(module);
  fairway::python::bind_model(module);
  fairway::python::bind_moe(module);
  fairway::python::bind_linear_tuner(module);
  fairway::python::bind_autotuner(module);
}
