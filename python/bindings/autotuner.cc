// The tuner of MoE layers.
#include "select/autotuner.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <span>

#include "bindings/model.h"
#include "bindings/tuning.h"
#include "fairway/error.h"
#include "select/synthetic_layer.h"

namespace fairway::python {
namespace {

using select::MixedBPWAutoTuner;

py::object optional_config(const std::optional<select::KernelConfig>& config) {
  if (!config) return py::none();
  return config_dict(*config);
}

py::list benchmark(MixedBPWAutoTuner& tuner, std::span<const select::TuneLayer> layers, int batch_size,
                   const std::vector<py::dict>& configs, int warmup, int iterations, const py::object& progress) {
  Interruptible run(warmup, iterations, progress);
  const std::vector<select::KernelConfig> wanted = configs_from(configs);
  std::vector<select::BenchmarkResult> results;
  {
    const py::gil_scoped_release released;
    Runtime::Session session(Runtime::get());
    results = tuner.benchmark_layers(layers, batch_size, wanted, run.options(), session.context());
  }
  run.rethrow();
  return result_list(results);
}

py::list benchmark_layer(MixedBPWAutoTuner& tuner, const MoeHandle& layer, int batch_size,
                         const std::vector<py::dict>& configs, int warmup, int iterations, const py::object& progress) {
  const select::TuneLayer one{&layer.weights->experts, &layer.weights->always_on, layer.weights->traits, {}, {}};
  return benchmark(tuner, {&one, 1}, batch_size, configs, warmup, iterations, progress);
}

py::list benchmark_synthetic(MixedBPWAutoTuner& tuner, const select::SyntheticLayers& layers, int batch_size,
                             const std::vector<py::dict>& configs, int warmup, int iterations,
                             const py::object& progress) {
  return benchmark(tuner, layers.layers(), batch_size, configs, warmup, iterations, progress);
}

std::unique_ptr<select::SyntheticLayers> make_synthetic(const std::string& geometry, const std::string& mix,
                                                        std::int64_t pool_bytes) {
  std::vector<std::string> names;
  for (const select::BitMix& known : select::known_mixes()) {
    if (known.name == mix) {
      return std::make_unique<select::SyntheticLayers>(select::geometry(geometry), known, codec::Codebook::kMul1,
                                                       pool_bytes);
    }
    names.push_back(known.name);
  }
  throw Error(ErrorKind::kUsage, fmt::format("mix '{}' does not exist; known: {}", mix, fmt::join(names, "; ")));
}

py::dict statistics(const MixedBPWAutoTuner& tuner) {
  const MixedBPWAutoTuner::Statistics all = tuner.statistics();
  py::dict dict;
  dict["entries"] = all.entries;
  dict["kernels_timed"] = all.kernels_timed;
  dict["latencies_recorded"] = all.latencies_recorded;
  dict["mean_gain"] = all.mean_gain;
  dict["best_gain"] = all.best_gain;
  dict["chosen"] = all.chosen;
  return dict;
}

}  // namespace

void bind_autotuner(py::module_& module) {
  py::class_<MixedBPWAutoTuner>(module, "AutoTuner")
      .def(py::init<std::string, std::filesystem::path>(), py::arg("device_name"), py::arg("config_path"))
      .def_property_readonly("device_name", &MixedBPWAutoTuner::device_name)
      .def_property_readonly("device_family", &MixedBPWAutoTuner::device_family)
      .def("benchmark_layer", &benchmark_layer)
      .def("benchmark_synthetic", &benchmark_synthetic)
      .def("select_kernel",
           [](const MixedBPWAutoTuner& tuner, int batch_size, int hidden_dim, const std::vector<int>& bit_widths,
              bool use_decode, bool fallback_to_default) {
             return optional_config(
                 tuner.select_kernel(batch_size, hidden_dim, bit_widths, use_decode, fallback_to_default));
           })
      .def("record_latency", &MixedBPWAutoTuner::record_latency)
      .def("adapt_selection",
           [](const MixedBPWAutoTuner& tuner, int batch_size, int hidden_dim, const std::vector<int>& bit_widths,
              int top_k) { return optional_config(tuner.adapt_selection(batch_size, hidden_dim, bit_widths, top_k)); })
      .def("clear_adaptation_history", &MixedBPWAutoTuner::clear_adaptation_history)
      .def("statistics", &statistics)
      .def("to_json", [](const MixedBPWAutoTuner& tuner) { return tuner.table().to_json(); })
      .def_static("load_config", &MixedBPWAutoTuner::load_config, py::arg("path"));
  py::class_<select::SyntheticLayers>(module, "SyntheticLayers")
      .def(py::init(&make_synthetic), py::arg("geometry"), py::arg("mix"), py::arg("pool_bytes"),
           py::call_guard<py::gil_scoped_release>());
  module.def("known_geometries", [] {
    std::vector<std::string> names;
    for (const select::MoeGeometry& geometry : select::known_geometries()) names.emplace_back(geometry.name);
    return names;
  });
  module.def("known_mixes", [] {
    std::vector<std::string> names;
    for (const select::BitMix& mix : select::known_mixes()) names.push_back(mix.name);
    return names;
  });
  // (usable, why not): whether the file is a table for this machine.
  module.def("table_is_usable", [](const std::filesystem::path& path) {
    std::string why;
    const bool usable = select::TunedTable::load_if_usable(path, why).has_value();
    return py::make_tuple(usable, why);
  });
}

}  // namespace fairway::python
