// What the machine code that runs on a GPU can do, and what the GPU has. Paths, clusters and shared memory are chosen
// by this alone: code for generation 8.0 has no clusters on a GPU that has them. Compiles without a CUDA toolkit.
#pragma once

#include <string>
#include <string_view>

namespace fairway::kernels::cuda {

struct GpuFeatures {
  // Clusters of CTAs, bulk copies, and launches that begin before the one ahead has ended: from generation 9.0 on.
  bool clusters;
  bool wgmma;        // tensor instructions of four warps: code for "90a", which 9.0 runs
  int shared_bytes;  // of a CTA, at most
};

// Of a GPU of compute capability 9.0 and code for "90a".
constexpr GpuFeatures kHopperFeatures{true, true, 227 * 1024};

// Of the current device; kHopperFeatures where there is none, so that calls can be planned anywhere. The environment
// variable FAIRWAY_CUDA_SHARED_KB lowers shared_bytes, to see what a GPU with less does; it is read once.
GpuFeatures gpu_features();

// Of a device, which require_gpu() takes; throws as that does.
GpuFeatures gpu_features_of(int device);

// Error(kUnsupported) that names the GPU, its compute capability and what this program was compiled for, unless that is
// 8.0 or later and there is code for it. has_code: there is.
void require_gpu(std::string_view gpu, int compute_major, int compute_minor, bool has_code);

// The same of a CUDA device; throws as backend::require_cuda_device() does.
void require_gpu(int device);

// Why a device is refused, "" if it is not.
std::string gpu_refusal(int device);

}  // namespace fairway::kernels::cuda
