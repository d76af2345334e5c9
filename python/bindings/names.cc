// Device families, their thresholds, and kernel names by rule.
#include <fmt/format.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "bindings/bindings.h"
#include "fairway/error.h"
#include "kernels/common/registry.h"
#include "select/kernel_names.h"
#include "select/thresholds.h"

namespace fairway::python {
namespace {

using select::DeviceProfile;
using Available = std::optional<select::KernelSet>;
using Width = std::optional<int>;

const DeviceProfile& profile_of(const std::optional<std::string>& device) {
  return device ? select::device_profile(*device) : select::this_device();
}

std::optional<kernels::BitTuple> bit_tuple(Width gate, Width up, Width down) {
  for (const Width& width : {gate, up, down}) {
    if (width && (*width < 1 || *width > 8)) {
      throw Error(ErrorKind::kUsage, fmt::format("width of {} bits, expected 1 to 8", *width));
    }
  }
  if (!gate || !up || !down) return std::nullopt;  // not known for all three: no specialised kernel matches
  return kernels::BitTuple{static_cast<std::uint8_t>(*gate), static_cast<std::uint8_t>(*up),
                           static_cast<std::uint8_t>(*down)};
}

// What the three functions of the documents take.
template <class Function>
auto with_query(const Function& function) {
  return [function](int batch_size, bool use_fp32_acc, Width gate_bits, Width up_bits, Width down_bits,
                    const Available& available, const std::optional<std::string>& device) {
    return function(select::NameQuery{batch_size, use_fp32_acc, bit_tuple(gate_bits, up_bits, down_bits),
                                      available ? &*available : nullptr, &profile_of(device)});
  };
}

py::tuple as_tuple(const select::KernelName& name) {
  return py::make_tuple(name.kernel, name.tile_n);
}

py::dict rule_dict(const select::BatchRule& rule) {
  py::dict dict;
  dict["bucket"] = rule.bucket;
  dict["batch_max"] = rule.batch_max == select::kNoBatchLimit ? py::object(py::none()) : py::int_(rule.batch_max);
  dict["kernel"] = rule.kernel;
  dict["tile_n"] = rule.tile_n;
  return dict;
}

py::dict profile_dict(const DeviceProfile& profile) {
  py::dict dict;
  py::list rules;
  for (const select::BatchRule& rule : profile.rules) rules.append(rule_dict(rule));
  dict["family"] = profile.family;
  dict["rules"] = rules;
  dict["width_rules"] = profile.width_rules;
  dict["specialized_decode"] = profile.specialized_decode;
  dict["fp32_hidden"] = profile.fp32_hidden;
  return dict;
}

}  // namespace

void bind_names(py::module_& module) {
  module.def(
      "device_profile", [](const std::optional<std::string>& device) { return profile_dict(profile_of(device)); },
      py::arg("device") = py::none());
  module.def("this_device_name", &select::this_device_name);
  module.def("known_families", [] {
    const auto names = kernels::known_families();
    return std::vector<std::string>(names.begin(), names.end());
  });
  module.def("kernel_aliases", [] {
    py::dict aliases;
    for (const kernels::KernelAlias& alias : kernels::kernel_aliases()) aliases[alias.name] = alias.target_family;
    return aliases;
  });
  module.def("available_families", &select::available_families);
  module.def("is_available", &select::is_available, py::arg("name"));
  module.def("check_kernel_name", &select::check_kernel_name, py::arg("name"));

  const auto def = [&](const char* name, const auto& function) {
    module.def(name, with_query(function), py::arg("batch_size"), py::arg("use_fp32_acc") = false,
               py::arg("gate_bits") = py::none(), py::arg("up_bits") = py::none(), py::arg("down_bits") = py::none(),
               py::arg("available_kernels") = py::none(), py::arg("device") = py::none());
  };
  def("get_kernel_for_batch_size",
      [](const select::NameQuery& query) { return as_tuple(select::get_kernel_for_batch_size(query)); });
  def("select_moe_kernel", [](const select::NameQuery& query) { return as_tuple(select::select_moe_kernel(query)); });
  def("get_moe_kernel", &select::get_moe_kernel);

  module.def(
      "recommend_kernel",
      [](int batch_size, int hidden_dim, bool use_fp32_acc, Width gate_bits, Width up_bits, Width down_bits,
         const Available& available, const std::optional<std::string>& device) {
        const auto recommend = with_query(
            [hidden_dim](const select::NameQuery& query) { return select::recommend_kernel(query, hidden_dim); });
        const auto found = recommend(batch_size, use_fp32_acc, gate_bits, up_bits, down_bits, available, device);
        return py::make_tuple(found.name.kernel, found.name.tile_n, found.use_fp32_acc, found.reason);
      },
      py::arg("batch_size"), py::arg("hidden_dim"), py::arg("use_fp32_acc") = false, py::arg("gate_bits") = py::none(),
      py::arg("up_bits") = py::none(), py::arg("down_bits") = py::none(), py::arg("available_kernels") = py::none(),
      py::arg("device") = py::none());
}

}  // namespace fairway::python
