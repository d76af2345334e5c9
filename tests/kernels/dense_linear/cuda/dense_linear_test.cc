// The dense layer on the device against double precision: types, alignments, rows, remainders.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <vector>

#include "backend/cuda/expect_error.h"
#include "kernels/common/cuda/device_values.cuh"
#include "kernels/dense_linear/cuda/dense_linear_cuda.cuh"
#include "kernels/verify/compare.h"

namespace fairway::kernels::cuda::check {
namespace {

// fp32 sums; tensor instructions drop bits below those of the largest product.
constexpr verify::Bound kBound{.row_relative = 2e-5};

struct DenseShape {
  int in, out, rows;
  int ldx, ldy;
  std::size_t shift;  // of W
  bool bias, add;
};

void check_dense(const DenseShape& s, DenseType type) {
  const std::string what = fmt::format("[{}, {}] of type {}, {} rows, strides {} and {}, shift {}", s.out, s.in,
                                       static_cast<int>(type), s.rows, s.ldx, s.ldy, s.shift);
  Random random(static_cast<std::uint64_t>(s.in * 1000 + s.rows));
  const std::size_t out = static_cast<std::size_t>(s.out), in = static_cast<std::size_t>(s.in);
  const std::size_t rows = static_cast<std::size_t>(s.rows);
  const StoredMatrix w(random_floats(random, out * in, 0.1f), type, s.shift);
  std::vector<HalfBits> x = to_half_bits(random_floats(random, rows * s.ldx));
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (i % s.ldx >= in) x[i] = 0xFFFF;  // NaN behind the row
  }
  const std::vector<float> x_values = from_half_bits(x);
  const std::vector<float> bias = random_floats(random, out), before = random_floats(random, rows * s.ldy);
  std::vector<float> expected(rows * out);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t o = 0; o < out; ++o) {
      double sum = (s.bias ? bias[o] : 0.0) + (s.add ? before[r * s.ldy + o] : 0.0);
      for (std::size_t i = 0; i < in; ++i) sum += static_cast<double>(w.values[o * in + i]) * x_values[r * s.ldx + i];
      expected[r * out + o] = static_cast<float>(sum);
    }
  }
  const DeviceValues<unsigned char> w_device(w.bytes);
  const DeviceValues<HalfBits> x_device(x);
  const DeviceValues<float> bias_device(bias);
  DeviceValues<float> y(before);
  const DenseLinearCall call{w_device.get() + s.shift,
                             type,
                             s.in,
                             s.out,
                             s.bias ? bias_device.get() : nullptr,
                             as_halves(x_device),
                             s.ldx,
                             s.rows,
                             y.get(),
                             s.ldy,
                             s.add};
  const auto run = [&] {
    dense_linear(call, nullptr);
    const std::vector<float> all = y.download();
    std::vector<float> values;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (i % s.ldy < out) {
        values.push_back(all[i]);
      } else {
        EXPECT_EQ(all[i], before[i]) << what << ": behind a row";
      }
    }
    return values;
  };
  const std::vector<float> values = run();
  EXPECT_EQ(verify::compare(expected, values, s.out, kBound), "") << what;
  y.upload(before);
  EXPECT_EQ(verify::compare_exact(values, run()), "") << what << ": two runs";
}

TEST(GpuDenseLinear, FewRows) {
  for (const DenseType type : kDenseTypes) {
    for (int rows = 1; rows <= 9; ++rows) {
      check_dense({264, 21, rows, 264, 21, 0, rows % 2 == 0, rows % 3 == 0}, type);
    }
    check_dense({2056, 9, 1, 2064, 12, 0, true, true}, type);
    check_dense({1032, 5, 2, 1032, 5, 0, false, false}, type);
    check_dense({8, 1, 1, 8, 1, 0, false, false}, type);
  }
}

TEST(GpuDenseLinear, AnyAlignment) {
  for (const DenseType type : kDenseTypes) {
    check_dense({64, 7, 3, 64, 7, 2, true, false}, type);
    check_dense({37, 6, 1, 37, 6, 0, true, true}, type);
    check_dense({100, 19, 11, 104, 20, 6, false, true}, type);
    check_dense({1, 3, 2, 1, 3, 0, false, false}, type);
  }
}

TEST(GpuDenseLinear, ManyRows) {
  for (const DenseType type : kDenseTypes) {
    check_dense({72, 70, 31, 72, 70, 0, true, false}, type);
    check_dense({136, 33, 67, 144, 40, 0, false, true}, type);
    check_dense({32, 64, 64, 32, 64, 0, false, false}, type);
  }
}

TEST(CudaDenseLinear, NonsenseIsRefused) {
  DenseLinearCall call{};
  call.in = call.out = 16;
  call.ldx = call.ldy = 16;
  test::expect_error(ErrorKind::kUsage, {"dense_linear", "0 rows"}, [&] { dense_linear(call, nullptr); });
  call.rows = 1;
  call.ldy = 15;
  test::expect_error(ErrorKind::kUsage, {"15 (y)"}, [&] { dense_linear(call, nullptr); });
}

}  // namespace
}  // namespace fairway::kernels::cuda::check
