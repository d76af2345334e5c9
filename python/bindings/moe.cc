// One call of an MoE layer from Python, with a kernel named or left to selection; and the grouping of its tokens.
#include <fmt/format.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "bindings/bindings.h"
#include "bindings/model.h"
#include "fairway/error.h"
#include "kernels/group_tokens/group_tokens.h"
#include "moe/layer.h"
#include "select/kernel_names.h"

namespace fairway::python {
namespace {

// A copy of ids [m, top_k], checked: inside the experts, and distinct per token.
std::vector<std::int32_t> checked_ids(const IndexArray& ids, int top_k, int experts) {
  if (ids.ndim() != 2 || ids.shape(1) != top_k) {
    throw Error(ErrorKind::kUsage, fmt::format("expert ids have {} dimensions, the last of {}, expected [M, {}]",
                                               ids.ndim(), ids.ndim() == 0 ? 0 : ids.shape(ids.ndim() - 1), top_k));
  }
  std::vector<std::int32_t> copy(ids.data(), ids.data() + ids.size());
  for (std::size_t row = 0; row + top_k <= copy.size() && top_k > 0; row += top_k) {
    std::set<std::int32_t> seen;
    for (int k = 0; k < top_k; ++k) {
      const std::int32_t id = copy[row + k];
      if (id >= 0 && id < experts && seen.insert(id).second) continue;
      throw Error(ErrorKind::kUsage, fmt::format("token {} is assigned expert {}, expected {} distinct ones of 0 to {}",
                                                 row / top_k, id, top_k, experts - 1));
    }
  }
  return copy;
}

// The override must be honoured; the hint is, if its kernel has a row here.
std::string kernel_to_force(const std::string& name_override, const std::string& hint) {
  if (!name_override.empty() || hint.empty()) return name_override;
  select::check_kernel_name(hint);
  return select::is_available(hint) ? hint : "";
}

py::dict counters_dict(const moe::Counters& counters) {
  py::dict kernels;
  for (const auto& [row, calls] : counters.kernels) kernels[row->id] = calls;
  py::dict dict;
  dict["kernels"] = kernels;
  dict["grouped_calls"] = counters.grouped_calls;
  dict["expert_groups"] = counters.expert_groups;
  dict["bit_tuples"] = counters.bit_tuples;
  dict["fallback_calls"] = counters.fallback_calls();
  return dict;
}

// (y, expert ids, expert weights, counters).
py::tuple dispatch(const MoeHandle& handle, const FloatArray& x, const std::optional<IndexArray>& ids,
                   const std::optional<FloatArray>& weights, const std::string& name_override,
                   const std::string& hint) {
  const int hidden = handle.hidden(), m = rows_of(x, hidden, "hidden_states");
  const kernels::RouteParams& route = handle.weights->route;
  moe::MoeScratch scratch;
  if (ids.has_value() != weights.has_value()) {
    throw Error(ErrorKind::kUsage, "expert ids and expert weights go together: give both or neither");
  }
  if (ids) {
    scratch.ids = checked_ids(*ids, route.top_k, route.experts);
    if (ids->shape(0) != m || rows_of(*weights, route.top_k, "expert_probs") != m) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("{} tokens, but ids of {} and weights of {}", m, ids->shape(0), weights->shape(0)));
    }
    scratch.weights.assign(weights->data(), weights->data() + weights->size());
  }
  py::array_t<float> y({m, hidden});
  std::fill_n(y.mutable_data(), y.size(), 0.0f);
  moe::Counters counters;
  const float* in = x.data();
  float* out = y.mutable_data();
  {
    const py::gil_scoped_release released;
    const std::string kernel = kernel_to_force(name_override, hint);
    Runtime::Session session(Runtime::get());
    const auto forward = ids ? moe::moe_forward_routed : moe::moe_forward;
    forward(*handle.weights, in, m, hidden, out, session.policy(kernel), session.context(), scratch, counters);
  }
  py::array_t<std::int32_t> chosen({m, route.top_k}, scratch.ids.data());
  py::array_t<float> shares({m, route.top_k}, scratch.weights.data());
  return py::make_tuple(y, chosen, shares, counters_dict(counters));
}

py::tuple bits_of(const kernels::ExpertWeights& expert) {
  const kernels::BitTuple bits = expert.bits();
  return py::make_tuple(static_cast<int>(bits.gate), static_cast<int>(bits.up), static_cast<int>(bits.down));
}

py::list expert_bits(const MoeHandle& handle) {
  py::list all;
  for (const kernels::ExpertWeights& expert : handle.weights->experts) all.append(bits_of(expert));
  return all;
}

py::tuple group_tokens(const IndexArray& ids, int experts) {
  if (ids.ndim() != 2 || ids.shape(0) < 1 || ids.shape(1) < 1 || experts < 1) {
    throw Error(ErrorKind::kUsage, fmt::format("expert ids of {} dimensions and {} elements for {} experts, expected "
                                               "[M, top_k] and 1 expert or more",
                                               ids.ndim(), ids.size(), experts));
  }
  const int m = static_cast<int>(ids.shape(0)), top_k = static_cast<int>(ids.shape(1));
  const std::vector<std::int32_t> checked = checked_ids(ids, top_k, experts);
  kernels::TokenGroups groups;
  kernels::group_tokens(checked.data(), m, top_k, experts, groups);
  const auto array = [](const std::vector<std::int32_t>& values) {
    return py::array_t<std::int32_t>(static_cast<py::ssize_t>(values.size()), values.data());
  };
  return py::make_tuple(array(groups.offsets), array(groups.rows), array(groups.slot_of).reshape({m, top_k}));
}

}  // namespace

void bind_moe(py::module_& module) {
  py::class_<MoeHandle>(module, "MoeLayer")
      .def_readonly("layer", &MoeHandle::layer)
      .def_property_readonly("hidden_size", &MoeHandle::hidden)
      .def_property_readonly("num_experts", [](const MoeHandle& h) { return h.weights->route.experts; })
      .def_property_readonly("top_k", [](const MoeHandle& h) { return h.weights->route.top_k; })
      .def_property_readonly("expert_bits", &expert_bits)
      .def("dispatch", &dispatch, py::arg("hidden_states"), py::arg("expert_ids"), py::arg("expert_probs"),
           py::arg("kernel_name_override"), py::arg("kernel_hint"));
  module.def("group_tokens", &group_tokens, py::arg("expert_ids"), py::arg("experts"));
}

}  // namespace fairway::python
