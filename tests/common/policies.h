// Selection policies for "every backend that this machine can run".
#pragma once

#include <string>
#include <vector>

#include "backend/cpu/features.h"
#include "select/select.h"

namespace fairway::test {

// Names of the backends whose features this machine has, the reference first.
inline std::vector<std::string> backends_here() {
  std::vector<std::string> names{"cpu_ref"};
  const std::uint32_t features = backend::cpu_info().features;
  if (features & backend::kCpuAvx2) names.push_back("cpu_avx2");
  if (features & backend::kCpuAvx512) names.push_back("cpu_avx512");
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
