// CUDA devices: whether there are any and why not, and what is known about each. Compiles without a CUDA toolkit.
#pragma once

#include <cstdint>
#include <string>

namespace fairway::backend {

// Read without opening a context on the device, so asking costs no device memory.
struct CudaDeviceInfo {
  int index = 0;
  std::string name;                          // "NVIDIA H100 80GB HBM3"
  int compute_major = 0, compute_minor = 0;  // compute capability
  int multiprocessors = 0;
  std::int64_t l2_bytes = 0;
  std::int64_t shared_bytes_per_block = 0;         // what any kernel may use
  std::int64_t shared_bytes_per_block_opt_in = 0;  // after cudaFuncAttributeMaxDynamicSharedMemorySize is raised
  std::int64_t shared_bytes_per_multiprocessor = 0;
  std::int64_t memory_bytes = 0;  // of the whole device
};

struct CudaMemory {
  std::int64_t free_bytes = 0, total_bytes = 0;
};

// Versions of CUDA as numbers like 13000 for 13.0; 0 where there is none.
struct CudaVersions {
  int driver = 0;   // newest CUDA that the installed driver serves
  int runtime = 0;  // the one this program was built with
};

// Devices that this process may use (CUDA_VISIBLE_DEVICES counts); 0 with a reason in cuda_absence_reason().
// The first call starts the driver, which takes up to a second where there is one.
int cuda_device_count();

// "" if there is a device, else one of: built without a CUDA toolkit; no NVIDIA driver; the driver is too old (with
// both versions); no device; or the error that the driver reported.
std::string cuda_absence_reason();

// Error(kUnsupported) with the reason if there is no device at all, Error(kUsage) if there is none of this number.
void require_cuda_device(int device);

CudaVersions cuda_versions();
std::string cuda_version_text(int version);  // 13000 -> "13.0", 0 -> "none"

// "90a-real", or several joined by commas: the GPU generations whose machine code is in this program; "" if none is.
std::string cuda_compiled_architectures();

// These throw as require_cuda_device() does. cuda_memory() opens a context, some hundred MB of device memory; other
// processes on the device are counted as used.
const CudaDeviceInfo& cuda_device_info(int device);
CudaMemory cuda_memory(int device);

// Share of the device's memory that is in use, 0 to 1: what memory_pressure() is for the host.
double cuda_memory_pressure(int device);

}  // namespace fairway::backend
