// What holds of the CUDA backend where there is no device: a reason, and errors that carry it. The tests that need a
// device are in tests/backend/cuda/.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "backend/cuda/arena.h"
#include "backend/cuda/device.h"
#include "backend/cuda/event.h"
#include "backend/cuda/pinned_buffer.h"
#include "backend/cuda/stream.h"
#include "backend/cuda/uploader.h"
#include "fairway/error.h"

namespace fairway::backend {
namespace {

TEST(Cuda, ThereIsADeviceOrAReason) {
  EXPECT_GE(cuda_device_count(), 0);
  EXPECT_EQ(cuda_absence_reason().empty(), cuda_device_count() > 0) << cuda_absence_reason();
  // A program without machine code for any GPU is one that was built without the toolkit, and no other.
  const bool built = !cuda_compiled_architectures().empty();
  EXPECT_EQ(cuda_absence_reason() == "built without a CUDA toolkit", !built) << cuda_absence_reason();
  EXPECT_EQ(cuda_versions().runtime > 0, built);
}

void expect_absence(const char* what, const std::function<void()>& use) {
  try {
    use();
    FAIL() << what << " did not throw";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUnsupported) << what;
    EXPECT_NE(std::string(e.what()).find(cuda_absence_reason()), std::string::npos) << what << ": " << e.what();
  }
}

TEST(Cuda, EveryUseWithoutADeviceSaysWhyThereIsNone) {
  if (cuda_device_count() > 0) {
    fmt::print("not run here: use without a CUDA device (this machine has {})\n", cuda_device_count());
    return;
  }
  expect_absence("require_cuda_device", [] { require_cuda_device(0); });
  expect_absence("require_cuda_device of a wrong number", [] { require_cuda_device(-1); });
  expect_absence("cuda_device_info", [] { cuda_device_info(0); });
  expect_absence("cuda_memory", [] { cuda_memory(0); });
  expect_absence("cuda_memory_pressure", [] { cuda_memory_pressure(0); });
  expect_absence("DeviceArena", [] { const DeviceArena arena(0, 1 << 20); });
  expect_absence("DeviceArena of nothing", [] { const DeviceArena arena(0, 0); });
  expect_absence("CudaStream", [] { const CudaStream stream(0); });
  expect_absence("CudaEvent", [] { const CudaEvent event(0); });
  expect_absence("EventTimer", [] { const EventTimer timer(0); });
  expect_absence("PinnedBuffer", [] { const PinnedBuffer buffer(0, 4096); });
  expect_absence("Uploader", [] { const Uploader uploader(0); });
}

}  // namespace
}  // namespace fairway::backend
