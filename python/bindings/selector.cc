// MixedKernelSelector and what belongs to it.
#include <pybind11/stl.h>

#include "backend/cpu/memory_pressure.h"
#include "bindings/bindings.h"
#include "select/mixed_selector.h"

namespace fairway::python {
namespace {

using select::MixedKernelSelector;

py::tuple bounds(const std::optional<select::Interval>& interval) {
  if (!interval) return py::make_tuple(py::none(), py::none());
  return py::make_tuple(interval->low, interval->high);
}

py::dict pattern_dict(const select::ExpertActivationPattern& pattern) {
  py::dict dict;
  dict["active_expert_bits"] = pattern.active_expert_bits;
  dict["expert_sparsity"] = pattern.expert_sparsity;
  dict["bit_distribution"] = pattern.bit_distribution;
  dict["activation_entropy"] = pattern.activation_entropy;
  return dict;
}

py::tuple choose(MixedKernelSelector& selector, int batch_size, const std::vector<int>& active_expert_bits,
                 std::optional<double> memory_pressure, const std::optional<select::KernelSet>& available,
                 int total_experts) {
  const auto selection = selector.select(
      {batch_size, active_expert_bits, memory_pressure, available ? &*available : nullptr, total_experts});
  py::dict info;
  info["reason"] = selection.reason;
  info["bucket"] = selection.bucket;
  info["heuristic"] = selection.heuristic;
  info["tile_n"] = selection.tile_n;
  info["memory_pressure"] = selection.memory_pressure;
  info["exploration_rate"] = selection.exploration_rate;
  info["pattern"] = pattern_dict(selection.pattern);
  return py::make_tuple(selection.kernel, info);
}

py::dict stats_dict(const MixedKernelSelector& selector) {
  const select::SelectionStats stats = selector.stats();
  py::dict dict;
  dict["total_selections"] = stats.total_selections;
  dict["correct_selections"] = stats.correct_selections;
  dict["recorded"] = stats.recorded;
  dict["switches"] = stats.switches;
  dict["by_reason"] = stats.by_reason;
  dict["by_kernel"] = stats.by_kernel;
  dict["exploration_rate"] = stats.exploration_rate;
  dict["accuracy"] = stats.accuracy();
  return dict;
}

py::dict analysis_dict(const select::KernelAnalysis& analysis) {
  py::dict dict;
  dict["kernel"] = analysis.kernel;
  dict["bucket"] = analysis.bucket;
  dict["samples"] = analysis.samples;
  dict["mean_ms"] = analysis.mean_ms;
  dict["median_ms"] = analysis.median_ms;
  dict["min_ms"] = analysis.min_ms;
  dict["max_ms"] = analysis.max_ms;
  dict["std_ms"] = analysis.std_ms;
  dict["confidence_interval"] = bounds(analysis.interval);
  return dict;
}

std::vector<py::tuple> record_tuples(const MixedKernelSelector& selector) {
  std::vector<py::tuple> all;
  for (const select::KernelTimingRecord& record : selector.records()) {
    all.push_back(
        py::make_tuple(record.kernel, record.batch_size, record.bucket, record.latency_ms, record.selected_by));
  }
  return all;
}

std::unique_ptr<MixedKernelSelector> make(int history_len, double initial, double least, double confidence,
                                          const std::optional<std::string>& device, std::uint64_t seed) {
  return std::make_unique<MixedKernelSelector>(select::MixedSelectorOptions{
      history_len, initial, least, confidence, seed, device ? &select::device_profile(*device) : nullptr});
}

}  // namespace

void bind_selector(py::module_& module) {
  py::class_<MixedKernelSelector>(module, "MixedKernelSelector")
      .def(py::init(&make), py::arg("history_len"), py::arg("initial_exploration_rate"),
           py::arg("min_exploration_rate"), py::arg("confidence_threshold"), py::arg("device"), py::arg("seed"))
      .def("select", &choose)
      .def("record", &MixedKernelSelector::record)
      .def("set_available_kernels", &MixedKernelSelector::set_available_kernels)
      .def("stats", &stats_dict)
      .def("records", &record_tuples)
      .def("analyze", [](const MixedKernelSelector& selector, const std::string& kernel, int batch_size,
                         double confidence) { return analysis_dict(selector.analyze(kernel, batch_size, confidence)); })
      .def("exploration_rate", &MixedKernelSelector::exploration_rate)
      .def("adapt_exploration_rate", &MixedKernelSelector::adapt_exploration_rate)
      .def("reset", &MixedKernelSelector::reset)
      .def("device_family", [](const MixedKernelSelector& selector) { return selector.device().family; });
  module.def("default_selector", &select::default_selector, py::return_value_policy::reference);
  module.def(
      "analyze_activation",
      [](const std::vector<int>& bits, int total) { return pattern_dict(select::analyze_activation(bits, total)); },
      py::arg("active_expert_bits"), py::arg("total_experts") = 0);
  module.def(
      "confidence_interval",
      [](const std::vector<double>& samples, double confidence) {
        return bounds(select::confidence_interval(samples, confidence));
      },
      py::arg("samples"), py::arg("confidence"));
}

}  // namespace fairway::python
