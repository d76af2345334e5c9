// silu(gate) * up as halves, beside the definition in double precision.
#include "kernels/common/cuda/swiglu.cuh"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "backend/cuda/expect_error.h"
#include "kernels/common/cuda/device_values.cuh"

namespace fairway::kernels::cuda::check {
namespace {

std::vector<__half> run(const std::vector<float>& gate, const std::vector<float>& up) {
  const DeviceValues<float> gate_device(gate), up_device(up);
  const DeviceValues<__half> out(gate.size());
  swiglu(gate_device.get(), up_device.get(), static_cast<long long>(gate.size()), out.get(), nullptr);
  return out.download();
}

TEST(GpuSwiglu, IsTheDefinition) {
  Random random(5);
  for (const std::size_t count : {4u, 1024u, 1028u, 5000u}) {
    const std::vector<float> gate = random_floats(random, count), up = random_floats(random, count);
    const std::vector<__half> out = run(gate, up);
    for (std::size_t i = 0; i < count; ++i) {
      const double g = gate[i], expected = g / (1 + std::exp(-g)) * up[i];
      // Half an ulp of a half, and the error of the fast functions.
      EXPECT_NEAR(__half2float(out[i]), expected, std::abs(expected) * 6e-4 + 4e-8) << i << " of " << count;
    }
  }
}

TEST(GpuSwiglu, LargeNumbersSaturateAndNanStays) {
  constexpr float kInf = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> gate{1e4f, 1e4f, -1e30f, 100.0f, kNan, 1.0f, 300.0f, -300.0f};
  const std::vector<float> up{1e4f, -1e4f, 1.0f, kInf, 1.0f, kNan, 200.0f, 5.0f};
  const std::vector<__half> out = run(gate, up);
  EXPECT_EQ(__half2float(out[0]), 65504.0f);
  EXPECT_EQ(__half2float(out[1]), -65504.0f);
  EXPECT_EQ(__half2float(out[2]), 0.0f);
  EXPECT_EQ(__half2float(out[3]), 65504.0f);
  EXPECT_TRUE(std::isnan(__half2float(out[4])));
  EXPECT_TRUE(std::isnan(__half2float(out[5])));
  EXPECT_EQ(__half2float(out[6]), 60000.0f);
  EXPECT_EQ(__half2float(out[7]), 0.0f);
}

TEST(CudaSwiglu, NonsenseIsRefused) {
  for (const long long count : {0LL, -4LL, 6LL}) {
    test::expect_error(ErrorKind::kUsage, {"swiglu", std::to_string(count)},
                       [&] { swiglu(nullptr, nullptr, count, nullptr, nullptr); });
  }
}

}  // namespace
}  // namespace fairway::kernels::cuda::check
