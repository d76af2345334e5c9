// Device facts as JSON and text.
#include "cli/cuda_facts.h"

#include <fmt/core.h>

#include "backend/cuda/device.h"

namespace fairway::cli {
namespace {

std::string capability_text(const backend::CudaDeviceInfo& info) {
  return fmt::format("{}.{}", info.compute_major, info.compute_minor);
}

Json device_json(const backend::CudaDeviceInfo& info) {
  return {{"index", info.index},
          {"name", info.name},
          {"compute_capability", capability_text(info)},
          {"multiprocessors", info.multiprocessors},
          {"l2_bytes", info.l2_bytes},
          {"shared_bytes_per_block", info.shared_bytes_per_block_opt_in},
          {"memory_bytes", info.memory_bytes}};
}

std::string device_text(const backend::CudaDeviceInfo& info) {
  const backend::CudaVersions versions = backend::cuda_versions();
  return fmt::format(
      "cuda {}: {}, compute capability {}, {} multiprocessors, L2 {}, memory {}; driver CUDA {}, program {}\n",
      info.index, info.name, capability_text(info), info.multiprocessors,
      human_bytes(static_cast<double>(info.l2_bytes)), human_bytes(static_cast<double>(info.memory_bytes)),
      backend::cuda_version_text(versions.driver), backend::cuda_version_text(versions.runtime));
}

}  // namespace

Json cuda_json() {
  Json devices = Json::array();
  for (int device = 0; device < backend::cuda_device_count(); ++device) {
    devices.push_back(device_json(backend::cuda_device_info(device)));
  }
  const std::string reason = backend::cuda_absence_reason();
  const backend::CudaVersions versions = backend::cuda_versions();
  return {{"devices", devices},
          {"absent", reason.empty() ? Json(nullptr) : Json(reason)},
          {"driver", backend::cuda_version_text(versions.driver)},
          {"runtime", backend::cuda_version_text(versions.runtime)},
          {"compiled_for", backend::cuda_compiled_architectures()}};
}

std::string cuda_text() {
  const std::string reason = backend::cuda_absence_reason();
  if (!reason.empty()) return fmt::format("cuda: none ({})\n", reason);
  std::string text;
  for (int device = 0; device < backend::cuda_device_count(); ++device) {
    text += device_text(backend::cuda_device_info(device));
  }
  return text;
}

}  // namespace fairway::cli
