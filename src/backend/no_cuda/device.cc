// Stands in for src/backend/cuda where the program is built without a CUDA toolkit: there is no device, and that is
// why.
#include "backend/cuda/device.h"

#include "fairway/error.h"

namespace fairway::backend {
namespace {

[[noreturn]] void throw_absent() {
  throw Error(ErrorKind::kUnsupported, "CUDA cannot be used: " + cuda_absence_reason() +
                                           "; scripts/build-cuda builds with one (README.md, Requirements)");
}

}  // namespace

int cuda_device_count() {
  return 0;
}
std::string cuda_absence_reason() {
  return "built without a CUDA toolkit";
}
void require_cuda_device(int) {
  throw_absent();
}
CudaVersions cuda_versions() {
  return {};
}
std::string cuda_version_text(int) {
  return "none";
}
std::string cuda_compiled_architectures() {
  return "";
}
const CudaDeviceInfo& cuda_device_info(int) {
  throw_absent();
}
CudaMemory cuda_memory(int) {
  throw_absent();
}
double cuda_memory_pressure(int) {
  throw_absent();
}

}  // namespace fairway::backend
