// fairway::Error as Python exceptions: FairwayError, and under it a ValueError and a RuntimeError.
#include "bindings/bindings.h"
#include "cli/cli.h"
#include "fairway/error.h"

namespace fairway::python {
namespace {

struct Classes {
  PyObject *base, *value, *runtime;
};

Classes& classes() {
  static Classes all{};  // live as long as the module, which is never unloaded
  return all;
}

PyObject* make_class(const char* name, const char* doc, const py::tuple& bases) {
  PyObject* made = PyErr_NewExceptionWithDoc(name, doc, bases.ptr(), nullptr);
  if (made == nullptr) throw py::error_already_set();
  return made;
}

bool is_value_error(ErrorKind kind) {
  return kind == ErrorKind::kUsage || kind == ErrorKind::kBadInput;
}

void raise(const Error& error) {
  const py::handle type = is_value_error(error.kind()) ? classes().value : classes().runtime;
  py::object instance = type(error.what());
  instance.attr("kind") = cli::error_kind_name(error.kind());
  PyErr_SetObject(type.ptr(), instance.ptr());
}

}  // namespace

void bind_errors(py::module_& module) {
  const py::handle exception(PyExc_Exception), value(PyExc_ValueError), runtime(PyExc_RuntimeError);
  Classes& all = classes();
  all.base = make_class("fairway.FairwayError",
                        "Base of all errors of fairway. `kind` is \"usage\", \"bad_input\", \"unsupported\", "
                        "\"resource\" or \"cancelled\".",
                        py::make_tuple(exception));
  const py::handle base(all.base);
  all.value =
      make_class("fairway.FairwayValueError", "A call makes no sense (usage) or a file is malformed (bad_input).",
                 py::make_tuple(base, value));
  all.runtime = make_class("fairway.FairwayRuntimeError",
                           "Valid input that this version or machine cannot serve (unsupported, resource), or an "
                           "interruption (cancelled).",
                           py::make_tuple(base, runtime));
  module.attr("FairwayError") = base;
  module.attr("FairwayValueError") = py::handle(all.value);
  module.attr("FairwayRuntimeError") = py::handle(all.runtime);
  // The signature is pybind11's. NOLINTNEXTLINE(performance-unnecessary-value-param)
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      raise(error);
    }
  });
}

}  // namespace fairway::python
