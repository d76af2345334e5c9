// What the CUDA expert layer refuses before it touches a device.
#include <gtest/gtest.h>

#include <string>

#include "backend/cuda/expect_error.h"
#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"
#include "kernels/trellis_band/cuda/supported_gpu.h"

namespace fairway::kernels::cuda {
namespace {

TEST(CudaMoe, OtherGpusAreRefusedByComputeCapability) {
  EXPECT_NO_THROW(require_hopper("NVIDIA H200", 9, 0));
  struct Other {
    int major, minor;
    const char* text;
  };
  for (const Other gpu : {Other{8, 0, "8.0"}, Other{8, 9, "8.9"}, Other{9, 1, "9.1"}, Other{10, 0, "10.0"}}) {
    test::expect_error(ErrorKind::kUnsupported,
                       {"Some GPU", std::string("compute capability ") + gpu.text, "needs 9.0"},
                       [&] { require_hopper("Some GPU", gpu.major, gpu.minor); });
  }
}

TEST(CudaMoe, IntegerPathsNeedMul1) {
  MoeLayer layer{};
  MoeCall call{};
  call.tokens = 1;
  test::expect_error(ErrorKind::kUsage, {"int_4", "mul1"},
                     [&] { moe_swiglu(layer, call, MoePath::kInt4, nullptr, nullptr); });
}

TEST(CudaMoe, NoTokensAreAnError) {
  const MoeLayer layer{};
  const MoeCall call{};
  test::expect_error(ErrorKind::kUsage, {"half_8", "0 tokens"},
                     [&] { moe_swiglu(layer, call, MoePath::kHalf8, nullptr, nullptr); });
}

}  // namespace
}  // namespace fairway::kernels::cuda
