// Times between events against the host's clock, and their order.
#include "backend/cuda/event.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "backend/cuda/arena.h"
#include "backend/cuda/expect_error.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/stream.h"

namespace fairway::backend {
namespace {

double timed_spin(CudaStream& stream, EventTimer& timer, std::int64_t microseconds) {
  timer.start(stream);
  test::launch_spin(stream, microseconds);
  timer.stop(stream);
  return timer.microseconds();
}

TEST(GpuEvent, TimesAreBetweenTheWorkAndTheHostsClock) {
  CudaStream stream(0);
  EventTimer timer(0);
  timed_spin(stream, timer, 0);  // loads the kernel
  for (const std::int64_t wanted : {20'000, 100'000}) {
    const auto begin = std::chrono::steady_clock::now();
    const double found = timed_spin(stream, timer, wanted);
    const double host = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
    // The kernel waits by %globaltimer, whose tick is no more than a millisecond on any device.
    EXPECT_GT(found, static_cast<double>(wanted) - 1100);
    EXPECT_LT(found, 1.01 * host + 1);  // two clocks
    std::printf("spin of %lld us: events %.1f us, host %.1f us\n", static_cast<long long>(wanted), found, host);
  }
}

TEST(GpuEvent, NothingTakesNearlyNoTime) {
  CudaStream stream(0);
  EventTimer timer(0);
  timer.start(stream);
  timer.stop(stream);
  EXPECT_GE(timer.microseconds(), 0.0);
  EXPECT_LT(timer.microseconds(), 1000.0);
}

TEST(GpuEvent, ReadyAndPassedFollowTheWork) {
  CudaStream stream(0);
  EventTimer timer(0);
  CudaEvent event(0);
  EXPECT_TRUE(event.passed()) << "never recorded";
  EXPECT_FALSE(timer.ready());
  test::expect_error(ErrorKind::kUsage, {"before start()"}, [&] { timer.microseconds(); });
  test::expect_error(ErrorKind::kUsage, {"without start()"}, [&] { timer.stop(stream); });
  timer.start(stream);
  EXPECT_FALSE(timer.ready());
  test::launch_spin(stream, 200'000);
  timer.stop(stream);
  event.record(stream);
  EXPECT_FALSE(timer.ready()) << "0.2 s of work passed at once";
  EXPECT_FALSE(event.passed());
  event.wait();
  EXPECT_TRUE(event.passed());
  EXPECT_TRUE(timer.ready());
  EXPECT_GT(timer.microseconds(), 198'900.0);
}

// A second stream that waits for the first one's event reads what the first wrote after a long time.
TEST(GpuEvent, AnotherStreamWaits) {
  CudaStream first(0), second(0);
  CudaEvent written(0);
  DeviceArena arena(0, 8192);
  auto* const source = arena.alloc<std::uint8_t>(4096, "source");
  auto* const copy = arena.alloc<std::uint8_t>(4096, "copy");
  first.fill(source, 1, 4096);
  test::launch_spin(first, 50'000);
  first.fill(source, 2, 4096);
  written.record(first);
  second.wait_for(written);
  second.copy_on_device(copy, source, 4096);
  std::vector<std::uint8_t> host(4096);
  second.copy_to_host(host.data(), copy, host.size());
  second.wait();
  for (const std::uint8_t byte : host) ASSERT_EQ(byte, 2);
  first.wait();
}

}  // namespace
}  // namespace fairway::backend
