// Launches whose CTAs wait for each other.
#pragma once

#include <atomic>
#include <cstdlib>

#include "kernels/common/cuda/launch.cuh"
#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"

namespace fairway::kernels::cuda {

// A launch that is cooperative and chained. The headers of CUDA 13.0 say of neither attribute that it excludes the
// other, and at least one published engine sets both, but nothing promises it for every version: where it is refused,
// the launches from then on are not chained. A refusal happens on the host and leaves no trace on the device.
//
// Chaining keeps what a cooperative launch is for. This launch's CTAs may become resident while the kernel before it
// still has some SMs; that kernel waits for nobody, so it ends and the rest follow. The kernel after it starts only
// when all of this launch's CTAs have let it, and so are resident.
//
// Args: with a MoeCall `call`, whose probe may say otherwise.
template <class Args>
cudaError_t launch_together(void (*kernel)(Args), LaunchShape shape, const Args& args, cudaStream_t stream) {
  static std::atomic<bool> chained{true};
  // Without this the driver may divide an SM's memory so that fewer CTAs fit than the launch needs.
  const cudaError_t set =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  if (set != cudaSuccess) return set;
  shape.together = args.call.probe.together;
  shape.chained = args.call.probe.chained && (!shape.together || chained.load(std::memory_order_relaxed));
  const cudaError_t status = launch(kernel, shape, stream, args);
  if (!shape.together || !shape.chained || (status != cudaErrorNotSupported && status != cudaErrorInvalidValue))
    return status;
  cudaGetLastError();  // which the refusal has set
  shape.chained = false;
  const cudaError_t alone = launch(kernel, shape, stream, args);
  if (alone == cudaSuccess) chained.store(false, std::memory_order_relaxed);
  return alone;
}

}  // namespace fairway::kernels::cuda
