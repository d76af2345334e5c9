// Launching a kernel so that it may start while the one before it on the stream still runs: it calls
// wait_for_previous_kernel() before it touches what that one wrote. On the current device.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "kernels/common/cuda/gpu_features.h"

namespace fairway::kernels::cuda {

struct LaunchShape {
  dim3 grid;
  int threads;
  int shared_bytes = 0;  // dynamic shared memory
  int cluster = 1;       // CTAs along x, at most 16; more than one needs GpuFeatures::clusters
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

constexpr int kPortableCluster = 8;  // CTAs of a cluster that every GPU with clusters has

// Lets a kernel have clusters of so many CTAs.
inline cudaError_t allow_cluster(const void* kernel, int cluster) {
  if (cluster <= kPortableCluster) return cudaSuccess;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
}

inline cudaLaunchAttribute cluster_attribute(int cluster) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  return attribute;
}

inline cudaError_t ask_for_clusters(const void* kernel, int threads, int shared_bytes, int cluster, int& clusters) {
  cudaError_t set = allow_shared_bytes(kernel, shared_bytes);
  if (set == cudaSuccess) set = allow_cluster(kernel, cluster);
  if (set != cudaSuccess) return set;
  cudaLaunchAttribute attribute = cluster_attribute(cluster);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(cluster));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
}

// Clusters of `cluster` CTAs that the current device has room for at the same time. CUDA is asked once; an error is an
// answer too, of a size that the device does not have, and is not left behind.
template <class... Formal>
cudaError_t count_clusters(void (*kernel)(Formal...), int threads, int shared_bytes, int cluster, int& clusters) {
  static std::mutex mutex;
  static std::map<std::tuple<int, const void*, int, int, int>, std::pair<cudaError_t, int>> answers;
  int device = 0;
  const cudaError_t found = cudaGetDevice(&device);
  if (found != cudaSuccess) return found;
  const auto* const function = reinterpret_cast<const void*>(kernel);
  const std::lock_guard lock(mutex);
  const auto [at, is_new] = answers.try_emplace({device, function, threads, shared_bytes, cluster}, cudaSuccess, 0);
  auto& [status, count] = at->second;
  if (is_new) {
    status = ask_for_clusters(function, threads, shared_bytes, cluster, count);
    if (status != cudaSuccess) static_cast<void>(cudaGetLastError());
  }
  clusters = count;
  return status;
}

template <class... Formal, class... Actual>
cudaError_t launch(void (*kernel)(Formal...), const LaunchShape& shape, cudaStream_t stream, Actual... args) {
  const auto* const function = reinterpret_cast<const void*>(kernel);
  const cudaError_t set = allow_shared_bytes(function, shape.shared_bytes);
  if (set != cudaSuccess) return set;
  const bool clusters = gpu_features().clusters;
  if (shape.cluster > 1 && !clusters) return cudaErrorNotSupported;
  const cudaError_t allowed = allow_cluster(function, shape.cluster);
  if (allowed != cudaSuccess) return allowed;
  cudaLaunchAttribute attributes[3] = {};
  unsigned count = 0;
  if (shape.chained && clusters) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) attributes[count++] = cluster_attribute(shape.cluster);
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
