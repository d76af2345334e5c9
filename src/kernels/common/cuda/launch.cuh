// Launching a kernel so that it may start while the one before it on the stream still runs: it calls
// wait_for_previous_kernel() before it touches what that one wrote. On the current device.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <map>
#include <mutex>
#include <utility>

#include "kernels/common/cuda/gpu_features.h"

namespace fairway::kernels::cuda {

struct LaunchShape {
  dim3 grid;
  int threads;
  int shared_bytes = 0;  // dynamic shared memory
  int cluster = 1;       // CTAs along x, at most 8; more than one needs GpuFeatures::clusters
  // All CTAs run at the same time and may wait for each other; an error if they do not fit on the device.
  bool together = false;
  bool chained = true;  // may start while the kernel before it runs
};

// Lets a kernel have so many bytes of dynamic shared memory on the current device. The limit is the kernel's, of all
// its launches, and is never lowered: what was recorded in a graph with more may run by itself later, under a profiler.
inline cudaError_t allow_shared_bytes(const void* kernel, int bytes) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, int> limits;  // that were set
  int device = 0;
  const cudaError_t found = cudaGetDevice(&device);
  if (found != cudaSuccess) return found;
  const std::lock_guard lock(mutex);
  int& limit = limits[{device, kernel}];
  if (bytes <= limit) return cudaSuccess;
  const cudaError_t set = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (set == cudaSuccess) limit = bytes;
  return set;
}

// CTAs of a kernel that an SM of the current device has room for at the same time.
template <class... Formal>
cudaError_t ctas_at_once(void (*kernel)(Formal...), int threads, int shared_bytes, int& ctas) {
  const cudaError_t set = allow_shared_bytes(reinterpret_cast<const void*>(kernel), shared_bytes);
  if (set != cudaSuccess) return set;
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(&ctas, reinterpret_cast<const void*>(kernel), threads,
                                                       static_cast<std::size_t>(shared_bytes));
}

// Clusters of `cluster` CTAs that the current device has room for at the same time.
template <class... Formal>
cudaError_t clusters_at_once(void (*kernel)(Formal...), int threads, int shared_bytes, int cluster, int& clusters) {
  const cudaError_t set = allow_shared_bytes(reinterpret_cast<const void*>(kernel), shared_bytes);
  if (set != cudaSuccess) return set;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(cluster));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaOccupancyMaxActiveClusters(&clusters, reinterpret_cast<const void*>(kernel), &config);
}

template <class... Formal, class... Actual>
cudaError_t launch(void (*kernel)(Formal...), const LaunchShape& shape, cudaStream_t stream, Actual... args) {
  const cudaError_t set = allow_shared_bytes(reinterpret_cast<const void*>(kernel), shape.shared_bytes);
  if (set != cudaSuccess) return set;
  const bool clusters = gpu_features().clusters;
  if (shape.cluster > 1 && !clusters) return cudaErrorNotSupported;
  cudaLaunchAttribute attributes[3] = {};
  unsigned count = 0;
  if (shape.chained && clusters) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = static_cast<unsigned>(shape.cluster);
    attributes[count].val.clusterDim.y = attributes[count].val.clusterDim.z = 1;
    ++count;
  }
  if (shape.together) {
    attributes[count].id = cudaLaunchAttributeCooperative;
    attributes[count++].val.cooperative = 1;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shape.shared_bytes);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Formal>(args)...);
}

// Multiprocessors of the current device.
inline int sm_count() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

}  // namespace fairway::kernels::cuda
