// The tuner of single trellis-coded matrices.
#include "select/linear_tuner.h"

#include "bindings/model.h"
#include "bindings/tuning.h"
#include "codec/packing.h"

namespace fairway::python {
namespace {

using select::LinearTuner;

py::list benchmark(LinearTuner& tuner, const LinearHandle& linear, int batch_size, const std::vector<py::dict>& configs,
                   int warmup, int iterations, const py::object& progress) {
  Interruptible run(warmup, iterations, progress);
  const std::vector<select::KernelConfig> wanted = configs_from(configs);
  std::vector<select::BenchmarkResult> results;
  {
    const py::gil_scoped_release released;
    Runtime::Session session(Runtime::get());
    results = tuner.benchmark(linear.weights, batch_size, wanted, run.options(), session.context());
  }
  run.rethrow();
  return result_list(results);
}

py::object find(const LinearTuner& tuner, const LinearHandle& linear, int batch_size) {
  const kernels::TrellisMatrix& matrix = linear.weights.trellis();
  const auto entry = tuner.find({batch_size, Runtime::get().threads(), linear.weights.in, linear.weights.out,
                                 matrix.bits, codec::codebook_name(matrix.codebook)});
  if (!entry) return py::none();
  py::dict dict = config_dict(entry->best);
  return dict;
}

py::list candidates(const LinearHandle& linear, int batch_size) {
  py::list list;
  const select::Policy policy = select::make_policy("", "", "");
  for (const auto& candidate : select::linear_candidates(policy, linear.weights.trellis(), batch_size)) {
    list.append(config_dict(select::config_of(candidate)));
  }
  return list;
}

}  // namespace

void bind_linear_tuner(py::module_& module) {
  py::class_<LinearTuner>(module, "LinearTuner")
      .def(py::init<>())
      .def("benchmark", &benchmark)
      .def("find", &find)
      .def("entries", [](const LinearTuner& tuner) { return tuner.entries().size(); })
      .def("to_json", &LinearTuner::to_json)
      .def("add_json", &LinearTuner::add_json, py::arg("text"), py::arg("source"));
  module.def("linear_candidates", &candidates, py::arg("linear"), py::arg("batch_size"));
}

}  // namespace fairway::python
