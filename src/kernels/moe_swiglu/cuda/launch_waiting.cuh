// Launches whose CTAs wait for each other.
#pragma once

#include "kernels/common/cuda/launch.cuh"
#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"

namespace fairway::kernels::cuda {

// The emulator runs the CTAs of a launch at the same time only if the launch says so.
#ifdef FAIRWAY_CUDA_EMULATED
constexpr bool kTogether = true;
#else
constexpr bool kTogether = false;
#endif

// A launch whose CTAs wait for each other: as many as fit on the device at once. It is not a cooperative one. That
// begins only when there is room for all of its CTAs, so it never runs beside the end of the kernel before it, and
// what its CTAs can do before they wait for that kernel takes time: 2 us. They all become resident without it: what
// runs before them on the stream waits for nobody, so it ends, and the kernel after them starts only when all of them
// have let it. On other streams there may be work that ends by itself, but no launch of this kind.
//
// Args: with a MoeCall `call`, whose probe may say otherwise.
template <class Args>
cudaError_t launch_waiting(void (*kernel)(Args), LaunchShape shape, const Args& args, cudaStream_t stream) {
  // Without this the driver may divide an SM's memory so that fewer CTAs fit than the launch needs.
  const cudaError_t set =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  if (set != cudaSuccess) return set;
  shape.together = args.call.probe.together || kTogether;
  shape.chained = args.call.probe.chained;
  return launch(kernel, shape, stream, args);
}

}  // namespace fairway::kernels::cuda
