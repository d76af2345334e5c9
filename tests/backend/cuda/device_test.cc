// Facts about every device that this machine has.
#include "backend/cuda/device.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <memory>
#include <string>

#include "backend/cuda/arena.h"
#include "backend/cuda/expect_error.h"
#include "backend/cuda/stream.h"

namespace fairway::backend {
namespace {

TEST(GpuDevice, FactsAreThoseOfAGpuThatWeCompileFor) {
  ASSERT_GT(cuda_device_count(), 0);
  for (int device = 0; device < cuda_device_count(); ++device) {
    const CudaDeviceInfo& info = cuda_device_info(device);
    EXPECT_EQ(info.index, device);
    EXPECT_FALSE(info.name.empty());
    EXPECT_GE(info.compute_major, 8) << "below Ampere";
    EXPECT_GT(info.multiprocessors, 0);
    EXPECT_GT(info.l2_bytes, 1 << 20);
    EXPECT_EQ(info.shared_bytes_per_block, 48 << 10);
    EXPECT_GT(info.shared_bytes_per_block_opt_in, info.shared_bytes_per_block);
    EXPECT_GE(info.shared_bytes_per_multiprocessor, info.shared_bytes_per_block_opt_in);
    EXPECT_GT(info.memory_bytes, std::int64_t{1} << 30);
    std::printf("device %d: %s, %d.%d, %d multiprocessors, L2 %lld, shared %lld, memory %lld; driver %s, runtime %s\n",
                device, info.name.c_str(), info.compute_major, info.compute_minor, info.multiprocessors,
                static_cast<long long>(info.l2_bytes), static_cast<long long>(info.shared_bytes_per_block_opt_in),
                static_cast<long long>(info.memory_bytes), cuda_version_text(cuda_versions().driver).c_str(),
                cuda_version_text(cuda_versions().runtime).c_str());
  }
  EXPECT_GE(cuda_versions().driver, cuda_versions().runtime / 1000 * 1000) << "the driver is of an older major version";
}

TEST(GpuDevice, AWrongNumberIsAnErrorThatSaysHowManyThereAre) {
  const int count = cuda_device_count();
  for (const int wrong : {-1, count, count + 7}) {
    const std::initializer_list<std::string> parts = {std::to_string(wrong), "has " + std::to_string(count)};
    test::expect_error(ErrorKind::kUsage, parts, [&] { cuda_device_info(wrong); });
    test::expect_error(ErrorKind::kUsage, parts, [&] { const CudaStream stream(wrong); });
    test::expect_error(ErrorKind::kUsage, parts, [&] { const DeviceArena arena(wrong, 256); });
  }
}

TEST(GpuDevice, MemoryPressureFollowsAllocations) {
  constexpr std::size_t kBytes = std::size_t{512} << 20;
  const CudaMemory before = cuda_memory(0);
  EXPECT_GT(before.free_bytes, 0);
  EXPECT_LE(before.free_bytes, before.total_bytes);
  const double pressure_before = cuda_memory_pressure(0);
  auto arena = std::make_unique<DeviceArena>(0, kBytes);
  const CudaMemory during = cuda_memory(0);
  EXPECT_EQ(during.total_bytes, before.total_bytes);
  EXPECT_LE(during.free_bytes, before.free_bytes - static_cast<std::int64_t>(kBytes));
  EXPECT_GT(cuda_memory_pressure(0), pressure_before);
  EXPECT_LT(cuda_memory_pressure(0), 1.0);
  arena.reset();
  EXPECT_GT(cuda_memory(0).free_bytes, during.free_bytes) << "the arena gave nothing back";
}

}  // namespace
}  // namespace fairway::backend
