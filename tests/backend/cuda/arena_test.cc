// The arena: alignment, separation, its limits, and what it says when something does not fit.
#include "backend/cuda/arena.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "backend/cuda/device.h"
#include "backend/cuda/expect_error.h"
#include "backend/cuda/stream.h"

namespace fairway::backend {
namespace {

constexpr std::size_t kMax = std::numeric_limits<std::size_t>::max();

TEST(CudaArena, RoundedIsTheNextMultipleAndNeverNothing) {
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{255}, std::size_t{256}}) {
    EXPECT_EQ(DeviceArena::rounded(bytes), 256u) << bytes;
  }
  EXPECT_EQ(DeviceArena::rounded(257), 512u);
  EXPECT_EQ(DeviceArena::rounded(kMax - 255), kMax - 255);
  test::expect_error(ErrorKind::kResource, {std::to_string(kMax)}, [] { (void)DeviceArena::rounded(kMax); });
}

TEST(GpuArena, PartsAreAlignedAndDoNotOverlap) {
  const std::vector<std::size_t> sizes = {1, 255, 256, 257, 0, 1000, 3u << 20, 17};
  std::size_t total = 0;
  for (const std::size_t bytes : sizes) total += DeviceArena::rounded(bytes);
  DeviceArena arena(0, total);
  CudaStream stream(0);
  std::vector<std::uint8_t*> parts;
  for (const std::size_t bytes : sizes) {
    parts.push_back(arena.alloc<std::uint8_t>(bytes, "part"));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(parts.back()) % DeviceArena::kAlignment, 0u);
    stream.fill(parts.back(), static_cast<unsigned char>(parts.size()), bytes);
  }
  EXPECT_EQ(arena.used_bytes(), total);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    std::vector<std::uint8_t> host(sizes[i]);
    stream.copy_to_host(host.data(), parts[i], sizes[i]);
    stream.wait();
    for (const std::uint8_t byte : host) ASSERT_EQ(byte, i + 1) << "part " << i;
  }
}

TEST(GpuArena, WhatDoesNotFitIsAnErrorWithTheNumbersAndTakesNothing) {
  DeviceArena arena(0, 1024);
  arena.alloc<float>(64, "first");
  test::expect_error(ErrorKind::kResource, {"expert weights", "193 x 4 bytes", "768 of 1024"},
                     [&] { arena.alloc<float>(193, "expert weights"); });
  // count * size would wrap to a small number.
  test::expect_error(ErrorKind::kResource, {std::to_string(kMax / 8 + 2)},
                     [&] { arena.alloc<double>(kMax / 8 + 2, "too many"); });
  EXPECT_EQ(arena.used_bytes(), 256u);
  arena.alloc<float>(192, "the rest");
  EXPECT_EQ(arena.used_bytes(), arena.capacity_bytes());
  test::expect_error(ErrorKind::kResource, {"0 of 1024"}, [&] { arena.alloc<float>(0, "nothing"); });
  DeviceArena empty(0, 0);
  test::expect_error(ErrorKind::kResource, {"0 of 0"}, [&] { empty.alloc<float>(1, "something"); });
}

TEST(GpuArena, MoreThanTheDeviceHasIsRefusedAndTheDeviceStaysUsable) {
  const auto total = static_cast<std::size_t>(cuda_memory(0).total_bytes);
  const std::size_t wanted = 2 * total;
  test::expect_error(ErrorKind::kResource,
                     {std::to_string(wanted), std::to_string(total) + " bytes are free", cuda_device_info(0).name},
                     [&] { const DeviceArena arena(0, wanted); });
  DeviceArena arena(0, 4096);
  CudaStream stream(0);
  stream.fill(arena.alloc<std::uint8_t>(4096, "all"), 7, 4096);
  stream.wait();
}

}  // namespace
}  // namespace fairway::backend
