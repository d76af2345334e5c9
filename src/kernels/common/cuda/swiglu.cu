// swiglu: four elements a thread.
#include <algorithm>
#include <string>

#include "backend/cuda/check.cuh"
#include "fairway/error.h"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/common/cuda/swiglu.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kLargestHalf = 65504.0f;

__device__ __forceinline__ float gated(float gate, float up) {
  const float v = up * __fdividef(gate, 1.0f + __expf(-gate));
  return fabsf(v) > kLargestHalf ? copysignf(kLargestHalf, v) : v;  // and NaN
}

__global__ void __launch_bounds__(kThreads)
    swiglu_kernel(const float4* gate, const float4* up, long long quads, __half2* out) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= quads) return;
  const float4 g = gate[i], u = up[i];
  out[2 * i] = __floats2half2_rn(gated(g.x, u.x), gated(g.y, u.y));
  out[2 * i + 1] = __floats2half2_rn(gated(g.z, u.z), gated(g.w, u.w));
}

}  // namespace

void swiglu(const float* gate, const float* up, long long count, __half* out, cudaStream_t stream) {
  constexpr long long kMost = 1LL << 38;  // CTAs fit an int
  if (count < 4 || count > kMost || count % 4 != 0) {
    throw Error(ErrorKind::kUsage,
                "swiglu: " + std::to_string(count) + " elements, expected a multiple of 4 from 4 on");
  }
  const long long quads = count / 4;
  const LaunchShape shape{static_cast<unsigned>((quads + kThreads - 1) / kThreads), kThreads};
  backend::check_cuda(launch(swiglu_kernel, shape, stream, reinterpret_cast<const float4*>(gate),
                             reinterpret_cast<const float4*>(up), quads, reinterpret_cast<__half2*>(out)),
                      "swiglu");
}

}  // namespace fairway::kernels::cuda
