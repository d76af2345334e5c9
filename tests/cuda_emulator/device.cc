// The emulated device's facts: a small Hopper GPU.
#include "backend/cuda/device.h"

#include <fmt/format.h>

#include <cstdlib>
#include <string_view>

#include "backend/cpu/memory_pressure.h"
#include "emulator.h"
#include "fairway/error.h"
#include "kernels/common/cuda/gpu_features.h"

namespace fairway::backend {
namespace {

constexpr std::int64_t kMemoryBytes = std::int64_t{4} << 30;

}  // namespace

int cuda_device_count() {
  return 1;
}
std::string cuda_absence_reason() {
  return "";
}
void require_cuda_device(int device) {
  if (device != 0) throw Error(ErrorKind::kUsage, fmt::format("there is no CUDA device {}; there is one, 0", device));
}
CudaVersions cuda_versions() {
  return {13000, 13000};
}
std::string cuda_version_text(int version) {
  return version == 0 ? "none" : fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}
std::string cuda_compiled_architectures() {
  return "emulated";
}
const CudaDeviceInfo& cuda_device_info(int device) {
  require_cuda_device(device);
  static const CudaDeviceInfo info{.index = 0,
                                   .name = "emulated Hopper GPU",
                                   .compute_major = 9,
                                   .compute_minor = 0,
                                   .multiprocessors = cuda_emulator::kMultiprocessors,
                                   .l2_bytes = 50 << 20,
                                   .shared_bytes_per_block = 48 << 10,
                                   .shared_bytes_per_block_opt_in = 227 << 10,
                                   .shared_bytes_per_multiprocessor = 228 << 10,
                                   .memory_bytes = kMemoryBytes};
  return info;
}
CudaMemory cuda_memory(int device) {
  require_cuda_device(device);
  return {kMemoryBytes, kMemoryBytes};
}
double cuda_memory_pressure(int device) {
  require_cuda_device(device);
  return 0.0;
}

}  // namespace fairway::backend

namespace fairway::kernels::cuda {
namespace {

GpuFeatures first_gpu() {
  const char* const name = std::getenv("FAIRWAY_EMULATOR_GPU");
  if (name == nullptr) return kHopperFeatures;
  return {false, false, (std::string_view(name) == "8.9" ? 99 : 163) * 1024};
}
GpuFeatures& present_gpu() {
  static GpuFeatures features = first_gpu();
  return features;
}

}  // namespace

GpuFeatures gpu_features() {
  return present_gpu();
}
GpuFeatures gpu_features_of(int device) {
  require_gpu(device);
  return present_gpu();
}
void require_gpu(int device) {
  backend::require_cuda_device(device);
}

}  // namespace fairway::kernels::cuda

void fairway::cuda_emulator::become_gpu(const kernels::cuda::GpuFeatures& features) {
  kernels::cuda::present_gpu() = features;
}
