// Ranges arrive byte for byte whichever thread copies them.
#include "backend/cuda/upload_pool.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <stdexcept>
#include <vector>

#include "backend/cuda/arena.h"
#include "backend/cuda/expect_error.h"
#include "backend/cuda/stream.h"

namespace fairway::backend {
namespace {

std::vector<std::uint8_t> random_bytes(std::size_t count, unsigned seed) {
  std::vector<std::uint8_t> bytes(count);
  std::mt19937_64 random(seed);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random() >> 56);
  return bytes;
}

TEST(GpuUploadPool, ManyRangesOnSeveralThreads) {
  constexpr std::size_t kBytes = 1 << 20;
  const std::vector<std::uint8_t> host = random_bytes(kBytes, 1);
  DeviceArena arena(0, DeviceArena::rounded(kBytes));
  auto* const device = arena.alloc<std::uint8_t>(kBytes, "bytes");
  CudaStream stream(0);
  for (const int threads : {1, 5}) {
    stream.fill(device, 0xA5, kBytes);
    stream.wait();
    UploadPool pool(0, threads, 10000);
    std::size_t at = 0;
    for (std::size_t size = 0; at < kBytes; size = (size * 3 + 1) % 70001) {
      const std::size_t bytes = std::min(size, kBytes - at);
      pool.add(device + at, {host.data() + at, bytes});
      at += bytes;
    }
    pool.finish();
    EXPECT_EQ(pool.uploaded_bytes(), kBytes);
    std::vector<std::uint8_t> found(kBytes);
    stream.copy_to_host(found.data(), device, kBytes);
    stream.wait();
    EXPECT_EQ(found, host) << threads << " threads";
    test::expect_error(ErrorKind::kUsage, {"after finish"}, [&] { pool.add(device, {host.data(), 1}); });
  }
}

TEST(GpuUploadPool, EndsEarlyWithoutHarm) {
  const std::vector<std::uint8_t> host = random_bytes(std::size_t{1} << 22, 2);
  DeviceArena arena(0, DeviceArena::rounded(host.size()));
  auto* const device = arena.alloc<std::uint8_t>(host.size(), "bytes");
  {
    UploadPool pool(0, 3, 1000);
    pool.add(device, host);
  }
  test::expect_error(ErrorKind::kUsage, {"no threads"}, [] { UploadPool(0, 0); });
  test::expect_error(ErrorKind::kUsage, {"there is no CUDA device 99"}, [] { UploadPool(99, 1); });
}

}  // namespace
}  // namespace fairway::backend
