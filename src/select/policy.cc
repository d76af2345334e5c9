// Wishes of the user, checked against the machine and the registry.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "fairway/error.h"
#include "select/allow.h"
#include "select/kernel_selector.h"

namespace fairway::select {
namespace {

using kernels::Activations;
using kernels::Backend;
using kernels::KernelRow;
using kernels::WeightKind;

const char* mode_name(ActivationMode mode) {
  switch (mode) {
    case ActivationMode::kAuto:
      return "auto";
    case ActivationMode::kInt8:
      return kernels::activations_name(Activations::kInt8);
    case ActivationMode::kFp16:
      return kernels::activations_name(Activations::kFp16);
    case ActivationMode::kFp32:
      return kernels::activations_name(Activations::kFp32);
  }
  return "unknown";
}

Backend parse_backend(const std::string& name, std::uint32_t features) {
  std::vector<std::string_view> usable;
  bool exists = false;
  for (const Backend backend : {Backend::kCpuRef, Backend::kCpuAvx2, Backend::kCpuAvx512}) {
    const bool runs = backend_runs(backend, features);
    if (name == kernels::backend_name(backend)) {
      exists = true;
      if (runs) return backend;
    }
    if (runs) usable.push_back(kernels::backend_name(backend));
  }
  throw Error(ErrorKind::kUsage,
              fmt::format("backend '{}' {}; usable here: {}", name,
                          exists ? "cannot run on this CPU (features: " + backend::cpu_feature_names(features) + ")"
                                 : "does not exist",
                          fmt::join(usable, ", ")));
}

ActivationMode parse_activations(const std::string& name) {
  if (name.empty() || name == "auto") return ActivationMode::kAuto;
  for (const ActivationMode mode : {ActivationMode::kInt8, ActivationMode::kFp16, ActivationMode::kFp32}) {
    if (name == mode_name(mode)) return mode;
  }
  throw Error(ErrorKind::kUsage, fmt::format("activations '{}' do not exist; use auto, int8, fp16 or fp32", name));
}

void check_forced_kernel(const Policy& policy, const std::string& asked) {
  std::vector<std::string_view> usable;
  bool exists = false;
  for (const auto& row : kernels::moe_swiglu_rows()) {
    if (row.info.weights != WeightKind::kTrellis) continue;
    const bool here =
        machine_and_wish_allow(policy, row.info) && activations_allow(policy.activations, row.info.activations);
    if (here) usable.push_back(row.info.id);
    if (!is_named(row.info, policy.kernel)) continue;
    exists = true;
    if (here) return;
  }
  const auto missing = kernels::missing_families();
  const bool known = std::find(missing.begin(), missing.end(), asked) != missing.end();
  throw Error(ErrorKind::kUsage, fmt::format("kernel '{}' {}; usable here: {}", asked,
                                             exists  ? "cannot run under " + describe(policy)
                                             : known ? "is a known family that no row implements yet"
                                                     : "does not exist",
                                             fmt::join(usable, ", ")));
}

}  // namespace

bool machine_and_wish_allow(const Policy& policy, const KernelRow& row) {
  return kernels::can_run(row, policy.features) && (!policy.backend || row.backend == *policy.backend);
}

bool activations_allow(ActivationMode mode, Activations activations) {
  switch (mode) {
    case ActivationMode::kAuto:
      return true;
    case ActivationMode::kInt8:
      return activations == Activations::kInt8;
    case ActivationMode::kFp16:
      return activations == Activations::kFp16;
    case ActivationMode::kFp32:
      return activations == Activations::kFp32;
  }
  return false;
}

bool is_named(const KernelRow& row, std::string_view name) {
  return name == row.id || name == row.family;
}

std::string describe(const Policy& policy) {
  return fmt::format("backend {}, activations {}", policy.backend ? kernels::backend_name(*policy.backend) : "(any)",
                     mode_name(policy.activations));
}

bool backend_runs(Backend backend, std::uint32_t features) {
  const auto same_op = [](const KernelRow& a, const KernelRow& b) {
    return std::string_view(a.op) == b.op && a.weights == b.weights;
  };
  const auto& rows = kernels::all_kernel_rows();
  return std::all_of(rows.begin(), rows.end(), [&](const KernelRow* row) {
    return row->backend != backend || std::any_of(rows.begin(), rows.end(), [&](const KernelRow* other) {
             return other->backend == backend && same_op(*row, *other) && kernels::can_run(*other, features);
           });
  });
}

Policy make_policy(const std::string& backend, const std::string& activations, const std::string& kernel) {
  Policy policy;
  policy.features = backend::cpu_info().features;
  policy.activations = parse_activations(activations);
  if (!backend.empty()) policy.backend = parse_backend(backend, policy.features);
  const kernels::KernelAlias* alias = kernels::find_alias(kernel);
  policy.kernel = alias == nullptr ? kernel : alias->target_family;
  if (!kernel.empty()) check_forced_kernel(policy, kernel);
  attach_selector(policy, 1);
  return policy;
}

}  // namespace fairway::select
