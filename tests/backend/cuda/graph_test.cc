// Recorded work gives what plain launches give, as often as it is replayed, and a failed recording leaves no trace.
#include "backend/cuda/graph.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "backend/cuda/arena.h"
#include "backend/cuda/expect_error.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/stream.h"

namespace fairway::backend {
namespace {

constexpr std::size_t kCount = 100'003;  // no multiple of a block
constexpr std::size_t kBytes = kCount * sizeof(std::uint32_t);
constexpr std::uint32_t kSteps = 7;

class GpuGraph : public testing::Test {
 protected:
  GpuGraph() {
    // CUDA loads a kernel at its first launch; what is tested here is recording, not loading.
    test::launch_scramble(stream_, zeros("first launch"), kCount, 0);
    stream_.wait();
  }
  std::uint32_t* zeros(const char* what) {
    auto* const values = arena_.alloc<std::uint32_t>(kCount, what);
    stream_.fill(values, 0, kBytes);
    return values;
  }
  void step(std::uint32_t* values) {
    for (std::uint32_t i = 0; i < kSteps; ++i) test::launch_scramble(stream_, values, kCount, i);
  }
  std::vector<std::uint32_t> fetch(const std::uint32_t* values) {
    std::vector<std::uint32_t> host(kCount);
    stream_.copy_to_host(host.data(), values, kBytes);
    stream_.wait();
    return host;
  }
  // What `rounds` plain steps give, computed on the host.
  static std::vector<std::uint32_t> expected(int rounds) {
    std::vector<std::uint32_t> values(kCount, 0);
    for (int round = 0; round < rounds; ++round) {
      for (std::uint32_t add = 0; add < kSteps; ++add) {
        for (std::size_t i = 0; i < kCount; ++i) values[i] = values[i] * 1664525u + static_cast<std::uint32_t>(i) + add;
      }
    }
    return values;
  }

  DeviceArena arena_{0, 4 * DeviceArena::rounded(kBytes)};
  CudaStream stream_{0};
};

TEST_F(GpuGraph, ReplaysGiveWhatPlainLaunchesGive) {
  std::uint32_t* const plain = zeros("plain");
  std::uint32_t* const replayed = zeros("replayed");
  const CudaGraph graph(stream_, [&] { step(replayed); });
  EXPECT_EQ(graph.nodes(), kSteps);
  EXPECT_EQ(fetch(replayed), std::vector<std::uint32_t>(kCount, 0)) << "recording ran the kernels";
  for (int rounds = 1; rounds <= 3; ++rounds) {
    step(plain);
    graph.replay(stream_);
    const std::vector<std::uint32_t> found = fetch(replayed);
    ASSERT_EQ(found, fetch(plain)) << rounds << " rounds";
    ASSERT_EQ(found, expected(rounds)) << rounds << " rounds";
  }
  CudaStream other(0);
  graph.replay(other);
  other.wait();
  EXPECT_EQ(fetch(replayed), expected(4)) << "replayed on another stream";
}

TEST_F(GpuGraph, ManyReplaysInARowKeepTheirOrder) {
  std::uint32_t* const values = zeros("values");
  const CudaGraph graph(stream_, [&] { step(values); });
  for (int round = 0; round < 50; ++round) graph.replay(stream_);
  EXPECT_EQ(fetch(values), expected(50));
}

TEST_F(GpuGraph, AnExceptionWhileRecordingLeavesTheStreamUsable) {
  std::uint32_t* const values = zeros("values");
  const auto record = [&] {
    step(values);
    throw std::runtime_error("stop");
  };
  EXPECT_THROW(CudaGraph(stream_, record), std::runtime_error);
  step(values);
  EXPECT_EQ(fetch(values), expected(1));
}

TEST_F(GpuGraph, WaitingWhileRecordingIsAnErrorAndLeavesTheStreamUsable) {
  std::uint32_t* const values = zeros("values");
  stream_.wait();
  test::expect_error(ErrorKind::kUnsupported, {"cudaStreamSynchronize", "While a graph is recorded"}, [&] {
    const CudaGraph graph(stream_, [&] {
      step(values);
      stream_.wait();
    });
  });
  step(values);
  EXPECT_EQ(fetch(values), expected(1));
}

TEST_F(GpuGraph, ALaunchThatTheDeviceRefusesIsReportedOnce) {
  test::expect_error(ErrorKind::kResource, {"launch of spin with 4096 threads", "cudaErrorInvalid"},
                     [&] { test::launch_impossible(stream_); });
  std::uint32_t* const values = zeros("values");
  step(values);  // would throw if the error were still pending
  EXPECT_EQ(fetch(values), expected(1));
}

}  // namespace
}  // namespace fairway::backend
