// Kinds of CUDA errors and advice for each.
#include "backend/cuda/check.cuh"

#include <fmt/format.h>

#include <string>

#include "backend/cuda/device.h"
#include "fairway/error.h"

namespace fairway::backend {
namespace {

struct Meaning {
  cudaError_t status;
  ErrorKind kind;
  const char* advice;
};

constexpr const char* kDeviceLost =
    "No CUDA call of this process can succeed any more: start it again. compute-sanitizer finds the access that caused "
    "this";
constexpr const char* kUnknown =
    "This is either a mistake in how Fairway uses CUDA or a fault of the device; compute-sanitizer shows the call";

// CUDA has some hundred errors; these are the ones that a user can do something about, and those that end the context.
constexpr Meaning kMeanings[] = {
    {cudaErrorMemoryAllocation, ErrorKind::kResource,
     "Free memory on the device, or use a smaller model, context or batch"},
    {cudaErrorNoDevice, ErrorKind::kUnsupported, "`fairway kernels` says what it found"},
    {cudaErrorInsufficientDriver, ErrorKind::kUnsupported, "Install a newer NVIDIA driver"},
    {cudaErrorDevicesUnavailable, ErrorKind::kResource,
     "Another process has the device for itself; nvidia-smi shows which"},
    {cudaErrorInvalidDevice, ErrorKind::kUsage, "`fairway kernels` lists the devices"},
    {cudaErrorStreamCaptureUnsupported, ErrorKind::kUnsupported,
     "While a graph is recorded, nothing may wait for the device or allocate its memory"},
    {cudaErrorStreamCaptureInvalidated, ErrorKind::kUnsupported,
     "An earlier call that may not be recorded into a graph, or that failed, broke the recording"},
    {cudaErrorIllegalAddress, ErrorKind::kResource, kDeviceLost},
    {cudaErrorMisalignedAddress, ErrorKind::kResource, kDeviceLost},
    {cudaErrorInvalidAddressSpace, ErrorKind::kResource, kDeviceLost},
    {cudaErrorInvalidPc, ErrorKind::kResource, kDeviceLost},
    {cudaErrorIllegalInstruction, ErrorKind::kResource, kDeviceLost},
    {cudaErrorHardwareStackError, ErrorKind::kResource, kDeviceLost},
    {cudaErrorAssert, ErrorKind::kResource, kDeviceLost},
    {cudaErrorLaunchFailure, ErrorKind::kResource, kDeviceLost},
    {cudaErrorLaunchTimeout, ErrorKind::kResource, kDeviceLost},
    {cudaErrorECCUncorrectable, ErrorKind::kResource, kDeviceLost},
};

Meaning meaning_of(cudaError_t status) {
  for (const Meaning& meaning : kMeanings) {
    if (meaning.status == status) return meaning;
  }
  return {status, ErrorKind::kResource, kUnknown};
}

bool lacks_machine_code(cudaError_t status) {
  return status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidKernelImage;
}

}  // namespace

void check_cuda(cudaError_t status, std::string_view call) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();  // CUDA would report it again at the next check
  const std::string what = fmt::format("{}: {} ({})", call, cudaGetErrorString(status), cudaGetErrorName(status));
  if (lacks_machine_code(status)) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{}. This program holds machine code for {} only; build it with the device's compute "
                            "capability in -DFAIRWAY_CUDA_ARCHITECTURES",
                            what, cuda_compiled_architectures()));
  }
  const Meaning meaning = meaning_of(status);
  throw Error(meaning.kind, fmt::format("{}. {}", what, meaning.advice));
}

void check_cuda_launch(std::string_view kernel) {
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) check_cuda(status, fmt::format("launch of {}", kernel));
}

}  // namespace fairway::backend
