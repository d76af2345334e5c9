// A model directory from Python: single matrices by name, and whole models.
#include "bindings/model.h"

#include <fmt/format.h>
#include <pybind11/stl.h>

#include <filesystem>
#include <optional>

#include "bindings/bindings.h"
#include "codec/packing.h"
#include "fairway/error.h"
#include "formats/model_layout.h"
#include "moe/counters.h"
#include "select/linear_tuner.h"

namespace fairway::python {
namespace {

namespace fs = std::filesystem;

// Names as documents write them ("layers.0.mlp.gate_proj"), as modules, or as tensors of one.
std::string module_key(std::string name) {
  for (const char* part : {".trellis", ".weight", ".suh", ".svh", ".su", ".sv", ".mcg", ".mul1", ".bias"}) {
    if (name.ends_with(part)) {
      name.resize(name.size() - std::string_view(part).size());
      break;
    }
  }
  return name.starts_with("layers.") ? "model." + name : name;
}

class Loader {
 public:
  explicit Loader(const std::string& directory)
      : directory_(directory),
        config_(formats::load_model_config(directory_)),
        checkpoint_(std::make_shared<formats::Checkpoint>(formats::Checkpoint::open(directory_))) {}

  LinearHandle linear(const std::string& asked) const {
    const std::string key = module_key(asked);
    std::optional<formats::LinearSpec> spec;
    formats::visit_linears(config_, [&](const formats::LinearSpec& one) {
      if (one.prefix == key) spec = one;
      return !spec;
    });
    if (!spec) {
      throw Error(ErrorKind::kUsage, fmt::format("{}: tensor \"{}\": a {} of {} layers has no linear layer \"{}\"",
                                                 (directory_ / "config.json").string(), asked,
                                                 config_.architecture_name, config_.num_hidden_layers, key));
    }
    LinearHandle handle{checkpoint_, key, {}, formats::load_linear(*checkpoint_, *spec)};
    const char* stored = handle.weights.is_trellis() ? ".trellis" : ".weight";
    handle.file = checkpoint_->file_of(checkpoint_->require(key + stored)).string();
    if (!handle.weights.is_trellis()) {
      throw Error(ErrorKind::kUnsupported,
                  fmt::format("{}: tensor \"{}.weight\" is plain, not trellis-coded", handle.file, key));
    }
    return handle;
  }

  // By module names; in the order in which a forward pass uses them.
  std::vector<std::string> linears() const {
    std::vector<std::string> names;
    formats::visit_linears(config_, [&](const formats::LinearSpec& one) {
      if (checkpoint_->has_trellis(one.prefix)) names.push_back(one.prefix);
      return true;
    });
    return names;
  }

  const fs::path& directory() const { return directory_; }

 private:
  fs::path directory_;
  formats::ModelConfig config_;
  std::shared_ptr<const formats::Checkpoint> checkpoint_;
};

py::array_t<float> apply(const LinearHandle& handle, const FloatArray& x, const std::string& kernel, int tile_m,
                         int tile_n, int simdgroups) {
  const int m = rows_of(x, handle.weights.in, "x");
  py::array_t<float> y({m, handle.weights.out});
  const float* in = x.data();
  float* out = y.mutable_data();
  {
    const py::gil_scoped_release released;
    Runtime::Session session(Runtime::get());
    const select::LinearCandidate candidate =
        kernel.empty() ? select::default_linear(session.policy(""), handle.weights.trellis(), m)
                       : select::linear_candidate_of({kernel, tile_m, tile_n, simdgroups});
    select::run_linear(candidate, handle.weights, in, m, out, session.context());
  }
  return y;
}

MoeHandle moe_layer(const std::shared_ptr<model::Model>& model, int layer) {
  const std::vector<bool>& is_moe = model->config().layer_is_moe;
  if (layer < 0 || layer >= static_cast<int>(is_moe.size()) || !is_moe[static_cast<std::size_t>(layer)]) {
    throw Error(
        ErrorKind::kUsage,
        fmt::format("{}: layer {} is none with routed experts; the model has {} layers, {} of them with experts",
                    model->checkpoint().directory().string(), layer, is_moe.size(), model->moe_layer_count()));
  }
  const int index = static_cast<int>(std::count(is_moe.begin(), is_moe.begin() + layer, true));
  return {model, layer, &model->moe_layer(index)};
}

std::vector<int> moe_layers(const model::Model& model) {
  std::vector<int> layers;
  const std::vector<bool>& is_moe = model.config().layer_is_moe;
  for (std::size_t i = 0; i < is_moe.size(); ++i) {
    if (is_moe[i]) layers.push_back(static_cast<int>(i));
  }
  return layers;
}

}  // namespace

void bind_model(py::module_& module) {
  const auto released = py::call_guard<py::gil_scoped_release>();
  py::class_<LinearHandle>(module, "Linear")
      .def_readonly("name", &LinearHandle::name)
      .def_readonly("file", &LinearHandle::file)
      .def_property_readonly("in_features", [](const LinearHandle& h) { return h.weights.in; })
      .def_property_readonly("out_features", [](const LinearHandle& h) { return h.weights.out; })
      .def_property_readonly("bits", [](const LinearHandle& h) { return h.weights.trellis().bits; })
      .def_property_readonly("codebook",
                             [](const LinearHandle& h) { return codec::codebook_name(h.weights.trellis().codebook); })
      .def_property_readonly("nbytes",
                             [](const LinearHandle& h) {
                               const kernels::TrellisMatrix& matrix = h.weights.trellis();
                               return std::int64_t{matrix.in} * matrix.out * matrix.bits / 8;
                             })
      .def("apply", &apply, py::arg("x"), py::arg("kernel"), py::arg("tile_m"), py::arg("tile_n"),
           py::arg("simdgroups"));
  py::class_<Loader>(module, "Loader")
      .def(py::init<std::string>(), py::arg("directory"), released)
      .def("linear", &Loader::linear, py::arg("name"), released)
      .def("linears", &Loader::linears, released)
      .def_property_readonly("directory", [](const Loader& loader) { return loader.directory().string(); });
  py::class_<model::Model, std::shared_ptr<model::Model>>(module, "Model")
      .def(py::init([](const std::string& directory) {
             return std::make_shared<model::Model>(model::Model::load(directory));
           }),
           py::arg("directory"), released)
      .def_property_readonly("hidden_size", [](const model::Model& model) { return model.config().hidden_size; })
      .def_property_readonly("architecture", [](const model::Model& model) { return model.config().architecture_name; })
      .def("moe_layers", &moe_layers)
      .def("moe_layer", &moe_layer, py::arg("layer"));
}

}  // namespace fairway::python
