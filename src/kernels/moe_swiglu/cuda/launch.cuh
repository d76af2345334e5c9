// How the launchers of the expert layer launch: chained to the kernel before, shared memory beyond 48 KB.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace fairway::kernels::cuda {

constexpr int kSharedPerSm = 227 * 1024;  // Hopper: most shared memory of the CTAs of an SM, and of one CTA
constexpr int kSharedPerCta = 1024;       // reserved by the system for each CTA
constexpr int kInputPadBytes = 32;        // between the columns of the integer paths' input, for the banks

inline int sm_count() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

template <class... Formal, class... Actual>
cudaError_t launch(void (*kernel)(Formal...), int grid, int threads, int shared_bytes, cudaStream_t stream,
                   Actual... args) {
  const cudaError_t set = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                               cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (set != cudaSuccess) return set;
  cudaLaunchAttribute attributes[1] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Formal>(args)...);
}

}  // namespace fairway::kernels::cuda
