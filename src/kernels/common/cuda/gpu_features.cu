// The features of a device, from a kernel that is compiled as all others are: its bound of threads says by which source
// text it was made.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>

#include "backend/cuda/check.cuh"
#include "backend/cuda/device.h"
#include "backend/cuda/device_scope.cuh"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/common/cuda/hopper.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kPlainThreads = 32, kClusterThreads = 64, kWgmmaThreads = 96;
#if defined(__CUDA_ARCH__)
constexpr int kProbeThreads = kCodeHasWgmma ? kWgmmaThreads : kCodeHasClusters ? kClusterThreads : kPlainThreads;
#else
constexpr int kProbeThreads = kPlainThreads;  // of no meaning on the host
#endif

__global__ void __launch_bounds__(kProbeThreads) probe_kernel() {}

int lowered_shared_bytes() {
  static const char* const kilobytes = std::getenv("FAIRWAY_CUDA_SHARED_KB");
  return kilobytes != nullptr ? std::max(std::atoi(kilobytes), 48) * 1024 : kHopperFeatures.shared_bytes;
}

// Whether there is code, and what it can do. On the current device.
struct Probe {
  bool has_code;
  GpuFeatures features;
};

Probe probe_current(int device) {
  Probe probe{false, {false, false, 48 * 1024}};
  cudaFuncAttributes attributes{};
  const cudaError_t status = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(probe_kernel));
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction) {
    (void)cudaGetLastError();
    return probe;
  }
  backend::check_cuda(status, "cudaFuncGetAttributes");
  probe.has_code = true;
  probe.features.clusters = attributes.maxThreadsPerBlock >= kClusterThreads;
  probe.features.wgmma = attributes.maxThreadsPerBlock >= kWgmmaThreads;
  const std::int64_t most = backend::cuda_device_info(device).shared_bytes_per_block_opt_in;
  probe.features.shared_bytes = static_cast<int>(std::min<std::int64_t>(most, lowered_shared_bytes()));
  return probe;
}

Probe probe_of(int device) {
  static std::mutex mutex;
  static std::map<int, Probe> known;
  const std::lock_guard lock(mutex);
  const auto found = known.find(device);
  if (found != known.end()) return found->second;
  return known[device] = probe_current(device);
}

}  // namespace

GpuFeatures gpu_features() {
  static const bool absent = backend::cuda_device_count() == 0;
  int device = 0;
  if (absent || cudaGetDevice(&device) != cudaSuccess) return kHopperFeatures;
  return probe_of(device).features;
}

GpuFeatures gpu_features_of(int device) {
  require_gpu(device);
  const backend::DeviceScope scope(device);
  return probe_of(device).features;
}

void require_gpu(int device) {
  const backend::CudaDeviceInfo& info = backend::cuda_device_info(device);
  const backend::DeviceScope scope(device);
  require_gpu(info.name, info.compute_major, info.compute_minor, info.compute_major >= 8 && probe_of(device).has_code);
}

}  // namespace fairway::kernels::cuda
