// What the CUDA linear layer refuses before it touches a device, and which paths it takes.
#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "backend/cuda/expect_error.h"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/trellis_linear/cuda/trellis_linear_cuda.cuh"

namespace fairway::kernels::cuda {
namespace {

LinearCall small_call() {
  LinearCall call{};
  call.in = 256;
  call.rows = call.count = 1;
  call.max_bits = 3;
  call.outputs[0].matrix.bits = 3;
  call.outputs[0].out = call.outputs[0].out_exact = 128;
  return call;
}

void expect_refused(const LinearCall& call, LinearPath path, std::initializer_list<std::string> parts) {
  test::expect_error(ErrorKind::kUsage, parts, [&] { trellis_linear(call, path, nullptr, nullptr); });
}

TEST(CudaLinear, SizesOutOfRangeAreErrors) {
  LinearCall call = small_call();
  call.rows = 0;
  expect_refused(call, LinearPath::kHalf8, {"half_8", "rows is 0"});
  call = small_call();
  call.in = 200;
  expect_refused(call, LinearPath::kHalf8, {"inputs is 200", "a multiple of 128"});
  call = small_call();
  call.count = 5;
  expect_refused(call, LinearPath::kHalf8, {"matrices is 5", "1..4"});
  call = small_call();
  call.outputs[0].out_exact = 129;
  expect_refused(call, LinearPath::kHalf8, {"written is 129", "1..128"});
  call = small_call();
  call.ldx = 257;
  expect_refused(call, LinearPath::kHalf8, {"16 bytes", "stride of 257"});
  call = small_call();
  call.outputs[0].matrix.bits = 4;
  expect_refused(call, LinearPath::kHalf8, {"width of a matrix is 4", "1..3"});
}

TEST(CudaLinear, NormsOutOfRangeAreErrors) {
  alignas(16) static float values[4];
  LinearCall call = small_call();
  call.norm = {values, 256, nullptr, 0, values, 1e-6f, 256, nullptr, 0};
  EXPECT_TRUE(linear_norm_legal(call.norm, call.in));
  call.norm.n = 254;
  expect_refused(call, LinearPath::kHalf8, {"before padding is 254", "4..256"});
  call.norm.n = 260;
  expect_refused(call, LinearPath::kHalf8, {"before padding is 260", "4..256"});
  call.norm.n = 256;
  call.norm.ldx = 258;
  expect_refused(call, LinearPath::kHalf8, {"16 bytes", "strides of 258"});
  call.norm.ldx = 256;
  call.norm.add = values + 1;
  call.norm.ldadd = 256;
  expect_refused(call, LinearPath::kHalf8, {"16 bytes"});
  call.norm.add = values;
  call.norm.sum = values;  // which other CTAs still read
  call.norm.ldsum = 256;
  expect_refused(call, LinearPath::kHalf8, {"overlap"});
}

TEST(CudaLinear, IntegerPathsNeedMul1) {
  expect_refused(small_call(), LinearPath::kInt4, {"int_4", "mul1"});
}

TEST(CudaLinear, PathsForFewRowsAndWeightsRefuseMore) {
  LinearCall call = small_call();
  call.all_mul1 = true;
  call.rows = 4;
  if (!gpu_features().clusters) {
    EXPECT_FALSE(linear_path_legal(call, LinearPath::kIntFew));
    test::expect_error(ErrorKind::kUnsupported, {"int_few", "instructions"},
                       [&] { trellis_linear(call, LinearPath::kIntFew, nullptr, nullptr); });
    return;
  }
  EXPECT_TRUE(linear_path_legal(call, LinearPath::kIntFew));
  call.rows = 5;
  EXPECT_FALSE(linear_path_legal(call, LinearPath::kIntFew));
  expect_refused(call, LinearPath::kIntFew, {"int_few", "5 rows", "256 inputs"});
  call.rows = 16;
  EXPECT_TRUE(linear_path_legal(call, LinearPath::kHalfFew));
  call.rows = 17;
  EXPECT_FALSE(linear_path_legal(call, LinearPath::kHalfFew));
  expect_refused(call, LinearPath::kHalfFew, {"half_few", "17 rows", "1 bands"});
  call.rows = 1;
  call.outputs[0].out = call.outputs[0].out_exact = 128 * 1000;
  expect_refused(call, LinearPath::kHalfFew, {"half_few", "1000 bands"});
}

TEST(CudaLinear, InputsThatDoNotFitNeedAPathOfTwoLaunches) {
  LinearCall call = small_call();
  call.in = 128 * 1024;
  EXPECT_FALSE(linear_path_legal(call, LinearPath::kHalf16));
  expect_refused(call, LinearPath::kHalf16, {"half_16", "131072 inputs"});
  call.rows = 16;
  EXPECT_EQ(linear_default_path(call), LinearPath::kHalf32);
}

TEST(CudaLinear, DecodeIsOneLaunch) {
  LinearCall call = small_call();
  for (call.rows = 1; call.rows <= 16; ++call.rows) {
    EXPECT_LE(linear_default_path(call), LinearPath::kHalf16);
    call.all_mul1 = true;
    EXPECT_LE(linear_default_path(call), LinearPath::kHalf16);
    call.all_mul1 = false;
  }
}

}  // namespace
}  // namespace fairway::kernels::cuda
