// Asks the CUDA runtime once; keeps what does not change.
#include "backend/cuda/device.h"

#include <fmt/format.h>

#include <vector>

#include "backend/cuda/check.cuh"
#include "backend/cuda/device_scope.cuh"
#include "fairway/error.h"

namespace fairway::backend {
namespace {

struct Probe {
  int count = 0;
  CudaVersions versions;
  std::string absence;
};

std::string absence_of(cudaError_t status, const CudaVersions& versions) {
  if (versions.driver == 0) return "no NVIDIA driver";
  if (status == cudaErrorInsufficientDriver) {
    return fmt::format("the NVIDIA driver serves CUDA {}, this program needs {}", cuda_version_text(versions.driver),
                       cuda_version_text(versions.runtime));
  }
  if (status == cudaErrorNoDevice || status == cudaSuccess) return "no device (or CUDA_VISIBLE_DEVICES hides it)";
  return fmt::format("cudaGetDeviceCount: {} ({})", cudaGetErrorString(status), cudaGetErrorName(status));
}

// Without a driver the runtime answers with an error and nothing else happens, so a machine without CUDA is no special
// case here.
Probe probe_devices() {
  Probe probe;
  if (cudaDriverGetVersion(&probe.versions.driver) != cudaSuccess) probe.versions.driver = 0;
  if (cudaRuntimeGetVersion(&probe.versions.runtime) != cudaSuccess) probe.versions.runtime = 0;
  const cudaError_t status = cudaGetDeviceCount(&probe.count);
  if (status != cudaSuccess) probe.count = 0;
  (void)cudaGetLastError();
  if (probe.count == 0) probe.absence = absence_of(status, probe.versions);
  return probe;
}

const Probe& probe() {
  static const Probe result = probe_devices();
  return result;
}

int attribute(int device, cudaDeviceAttr which, const char* name) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, which, device), name);
  return value;
}

CudaDeviceInfo read_info(int device) {
  cudaDeviceProp properties;
  check_cuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  CudaDeviceInfo info;
  info.index = device;
  info.name = properties.name;
  info.compute_major = properties.major;
  info.compute_minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.memory_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
  info.l2_bytes = attribute(device, cudaDevAttrL2CacheSize, "cudaDevAttrL2CacheSize");
  info.shared_bytes_per_block =
      attribute(device, cudaDevAttrMaxSharedMemoryPerBlock, "cudaDevAttrMaxSharedMemoryPerBlock");
  info.shared_bytes_per_block_opt_in =
      attribute(device, cudaDevAttrMaxSharedMemoryPerBlockOptin, "cudaDevAttrMaxSharedMemoryPerBlockOptin");
  info.shared_bytes_per_multiprocessor =
      attribute(device, cudaDevAttrMaxSharedMemoryPerMultiprocessor, "cudaDevAttrMaxSharedMemoryPerMultiprocessor");
  return info;
}

std::vector<CudaDeviceInfo> read_all() {
  std::vector<CudaDeviceInfo> all;
  all.reserve(static_cast<std::size_t>(cuda_device_count()));
  for (int device = 0; device < cuda_device_count(); ++device) all.push_back(read_info(device));
  return all;
}

}  // namespace

int cuda_device_count() {
  return probe().count;
}

std::string cuda_absence_reason() {
  return probe().absence;
}

CudaVersions cuda_versions() {
  return probe().versions;
}

std::string cuda_version_text(int version) {
  return version == 0 ? "none" : fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

std::string cuda_compiled_architectures() {
  return FAIRWAY_CUDA_ARCHITECTURES;  // set by cmake/fairway_cuda.cmake
}

void require_cuda_device(int device) {
  const int count = cuda_device_count();
  if (count == 0) throw Error(ErrorKind::kUnsupported, "CUDA cannot be used: " + cuda_absence_reason());
  if (device < 0 || device >= count) {
    throw Error(ErrorKind::kUsage, fmt::format("there is no CUDA device {}: this machine has {}, numbered from 0; "
                                               "`fairway kernels` lists them",
                                               device, count));
  }
}

const CudaDeviceInfo& cuda_device_info(int device) {
  require_cuda_device(device);
  static const std::vector<CudaDeviceInfo> all = read_all();
  return all[static_cast<std::size_t>(device)];
}

CudaMemory cuda_memory(int device) {
  const DeviceScope scope(device);
  std::size_t free_bytes = 0, total_bytes = 0;
  check_cuda(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  return {static_cast<std::int64_t>(free_bytes), static_cast<std::int64_t>(total_bytes)};
}

double cuda_memory_pressure(int device) {
  const CudaMemory memory = cuda_memory(device);
  return 1.0 - static_cast<double>(memory.free_bytes) / static_cast<double>(memory.total_bytes);
}

}  // namespace fairway::backend
