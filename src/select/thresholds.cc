// The device families and how a device finds its own.
#include "select/thresholds.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <vector>

#include "backend/cpu/features.h"
#include "fairway/error.h"
#include "kernels/common/registry.h"
#include "select/select.h"

namespace fairway::select {
namespace {

constexpr DeviceProfile kProfiles[] = {
    {"M4", kM4MaxThresholds, true, true, 1024},
    {"cpu_avx512", kCpuThresholds, false, false, 0},
    {"cpu_avx2", kCpuThresholds, false, false, 0},
    {"cpu_ref", kCpuThresholds, false, false, 0},
};

bool same_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

// "M4 Max" and "m4_max" belong to "M4".
bool belongs_to(std::string_view device, std::string_view family) {
  if (device.size() < family.size() || !same_ignoring_case(device.substr(0, family.size()), family)) return false;
  return device.size() == family.size() || device[family.size()] == ' ' || device[family.size()] == '_';
}

}  // namespace

std::span<const DeviceProfile> device_profiles() {
  return kProfiles;
}

const DeviceProfile& device_profile(std::string_view device) {
  for (const DeviceProfile& profile : kProfiles) {
    if (same_ignoring_case(device, profile.family)) return profile;
  }
  for (const DeviceProfile& profile : kProfiles) {
    if (belongs_to(device, profile.family)) return profile;
  }
  if (device == this_device_name()) return this_device();
  std::vector<std::string_view> families;
  for (const DeviceProfile& profile : kProfiles) families.push_back(profile.family);
  throw Error(ErrorKind::kUsage,
              fmt::format("device '{}' belongs to no known family; known: {}, or '{}' (this machine)", device,
                          fmt::join(families, ", "), this_device_name()));
}

const DeviceProfile& this_device() {
  const std::uint32_t features = backend::cpu_info().features;
  for (const kernels::Backend backend : {kernels::Backend::kCpuAvx512, kernels::Backend::kCpuAvx2}) {
    if (backend_runs(backend, features)) return device_profile(kernels::backend_name(backend));
  }
  return device_profile(kernels::backend_name(kernels::Backend::kCpuRef));
}

std::string this_device_name() {
  return backend::cpu_info().name;
}

const BatchRule& rule_for_batch(const DeviceProfile& profile, int batch_size) {
  if (batch_size < 1) throw Error(ErrorKind::kUsage, fmt::format("batch size {}, expected 1 or more", batch_size));
  return *std::find_if(profile.rules.begin(), profile.rules.end(),
                       [&](const BatchRule& rule) { return batch_size <= rule.batch_max; });
}

}  // namespace fairway::select
