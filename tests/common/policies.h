// Selection policies for "every backend that this machine can run".
#pragma once

#include <string>
#include <vector>

#include "backend/cpu/features.h"
#include "select/select.h"

namespace fairway::test {

// Names of the backends whose features this machine has, the reference first.
inline std::vector<std::string> backends_here() {
  std::vector<std::string> names;
  for (const auto backend : {kernels::Backend::kCpuRef, kernels::Backend::kCpuAvx2, kernels::Backend::kCpuAvx512}) {
    if (select::backend_runs(backend, backend::cpu_info().features)) names.emplace_back(kernels::backend_name(backend));
  }
  return names;
}

// One policy per backend with fp32 activations.
inline std::vector<select::Policy> fp32_policies() {
  std::vector<select::Policy> policies;
  for (const std::string& name : backends_here()) policies.push_back(select::make_policy(name, "fp32", ""));
  return policies;
}

inline std::string describe(const select::Policy& policy) {
  return policy.backend ? kernels::backend_name(*policy.backend) : "any backend";
}

}  // namespace fairway::test
