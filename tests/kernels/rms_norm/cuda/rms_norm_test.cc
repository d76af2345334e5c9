// The norm on the device against the CPU's: values, residual, rounding to halves, padding.
#include "kernels/rms_norm/rms_norm.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "backend/cuda/expect_error.h"
#include "kernels/common/cuda/device_values.cuh"
#include "kernels/rms_norm/cuda/rms_norm_cuda.cuh"
#include "kernels/verify/compare.h"

namespace fairway::kernels::cuda::check {
namespace {

// fp32 sums of up to 16384 squares in a tree of short chains, and three roundings after them.
constexpr verify::Bound kBound{.absolute = 1e-30, .relative = 2e-6};

struct NormShape {
  int n, rows, padded, ldx, ldo;
  bool add, fp32;
};

void check_norm_case(const NormShape& s, float scale) {
  const std::string what =
      fmt::format("{} rows of {} padded to {}, strides {} and {}, add {}", s.rows, s.n, s.padded, s.ldx, s.ldo, s.add);
  Random random(static_cast<std::uint64_t>(s.n * 100 + s.rows));
  const std::size_t rows = static_cast<std::size_t>(s.rows), ldx = static_cast<std::size_t>(s.ldx);
  const std::size_t n = static_cast<std::size_t>(s.n), ldo = static_cast<std::size_t>(s.ldo);
  const std::vector<float> x = random_floats(random, rows * ldx, scale), add = random_floats(random, rows * ldx, scale);
  const std::vector<float> weight = random_floats(random, n);
  const float eps = 1e-6f;
  std::vector<float> sum = x, expected(rows * n);
  for (std::size_t i = 0; s.add && i < x.size(); ++i) {
    if (i % ldx < n) sum[i] += add[i];
  }
  kernels::rms_norm(sum.data(), s.ldx, weight.data(), eps, s.rows, s.n, expected.data(), s.n);

  DeviceValues<float> x_device(x), out_fp32(rows * n);
  const DeviceValues<float> add_device(add), weight_device(weight);
  DeviceValues<HalfBits> out(rows * ldo);
  const NormCall call{x_device.get(),
                      s.ldx,
                      s.add ? add_device.get() : nullptr,
                      s.ldx,
                      weight_device.get(),
                      eps,
                      s.n,
                      s.rows,
                      as_halves(out),
                      s.ldo,
                      s.padded,
                      s.fp32 ? out_fp32.get() : nullptr};
  cuda::rms_norm(call, nullptr);
  EXPECT_EQ(verify::compare_exact(sum, x_device.download()), "") << what;
  const std::vector<HalfBits> halves = out.download();
  std::vector<float> written;
  int wrong = 0;
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t i = 0; i < ldo; ++i) {
      const HalfBits bits = halves[r * ldo + i];
      if (i < n) written.push_back(codec::float_from_half(bits));
      if (i >= n && i < static_cast<std::size_t>(s.padded)) wrong += bits != 0;
      if (i >= static_cast<std::size_t>(s.padded)) wrong += bits != 0xFFFF;
    }
  }
  EXPECT_EQ(wrong, 0) << what << ": padding";
  if (s.fp32) {
    const std::vector<float> values = out_fp32.download();
    EXPECT_EQ(verify::compare(expected, values, s.n, kBound), "") << what;
    for (std::size_t i = 0; i < values.size(); ++i) {
      wrong += codec::half_from_float(written[i]) != saturated_half_bits(values[i]);
    }
    EXPECT_EQ(wrong, 0) << what << ": halves";
  } else {
    EXPECT_EQ(verify::compare(expected, written, s.n, {.absolute = 1e-7, .relative = 0x1p-11 + 2e-6}), "") << what;
  }

  x_device.upload(x);
  out.poison(0x7F);
  cuda::rms_norm(call, nullptr);
  const std::vector<HalfBits> again = out.download();
  for (std::size_t i = 0; i < again.size(); ++i) wrong += again[i] != halves[i] && halves[i] != 0xFFFF;
  EXPECT_EQ(wrong, 0) << what << ": two runs";
}

TEST(GpuRmsNorm, AgreesWithTheCpu) {
  for (const bool add : {false, true}) {
    for (const int n : {1, 3, 8, 100, 127, 128, 384, 512, 768}) {
      const int padded = (n + 127) / 128 * 128;
      check_norm_case({n, n == 100 ? 9 : 2, padded, n, padded, add, true}, 1.0f);
      check_norm_case({n, 3, padded, (n + 7) / 8 * 8 + 8, padded + 8, add, n % 2 == 0}, 3.0f);
    }
    check_norm_case({2048, 2, 2048, 2048, 2048, add, false}, 1.0f);
    check_norm_case({4096, 1, 4096, 4096, 4096, add, true}, 1.0f);
    check_norm_case({7168, 1, 7168, 7168, 7168, add, true}, 1e-3f);
    check_norm_case({10240, 1, 10240, 10240, 10240, add, true}, 1.0f);
    check_norm_case({2101, 2, 2176, 2101, 2176, add, true}, 1.0f);
    check_norm_case({4101, 1, 4224, 4101, 4224, add, true}, 1.0f);
  }
}

TEST(GpuRmsNorm, HalvesSaturateAndNanStays) {
  constexpr int kN = 16;
  std::vector<float> x(3 * kN, 1.0f);
  x[kN + 5] = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> weight(kN, 1.0f);
  weight[0] = 1e6f;
  weight[1] = -1e6f;
  DeviceValues<float> x_device(x);
  const DeviceValues<float> weight_device(weight);
  const DeviceValues<HalfBits> out(3 * 128);
  cuda::rms_norm({x_device.get(), kN, nullptr, 0, weight_device.get(), 0.0f, kN, 3, as_halves(out), 128, 128, nullptr},
                 nullptr);
  const std::vector<float> values = from_half_bits(out.download());
  for (const int row : {0, 2}) {
    EXPECT_EQ(values[row * 128], 65504.0f);
    EXPECT_EQ(values[row * 128 + 1], -65504.0f);
    EXPECT_EQ(values[row * 128 + 2], 1.0f);
    EXPECT_EQ(values[row * 128 + kN], 0.0f);
  }
  EXPECT_TRUE(std::isnan(values[128 + 5]));
  EXPECT_TRUE(std::isnan(values[128 + 6]));
  EXPECT_EQ(values[128 + kN], 0.0f);
}

TEST(CudaRmsNorm, NonsenseIsRefused) {
  NormCall call{};
  call.n = call.padded = 128;
  call.ldx = call.ldo = 128;
  test::expect_error(ErrorKind::kUsage, {"rms_norm", "0 rows of 128"}, [&] { cuda::rms_norm(call, nullptr); });
  call.rows = 1;
  call.padded = 100;
  test::expect_error(ErrorKind::kUsage, {"padded to 100"}, [&] { cuda::rms_norm(call, nullptr); });
  call.n = call.padded = 20000;
  call.ldx = call.ldo = 20000;
  test::expect_error(ErrorKind::kUnsupported, {"20000", "16384"}, [&] { cuda::rms_norm(call, nullptr); });
}

}  // namespace
}  // namespace fairway::kernels::cuda::check
