// What the CUDA expert layer refuses before it touches a device.
#include <gtest/gtest.h>

#include <utility>

#include "backend/cuda/device.h"
#include "backend/cuda/expect_error.h"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"

namespace fairway::kernels::cuda {
namespace {

TEST(CudaMoe, GpusThatAreTooOldOrHaveNoCodeAreRefused) {
  for (const auto& [major, minor] : {std::pair(8, 0), std::pair(8, 9), std::pair(9, 0), std::pair(12, 0)}) {
    EXPECT_NO_THROW(require_gpu("Some GPU", major, minor, true));
  }
  test::expect_error(ErrorKind::kUnsupported, {"Some GPU", "compute capability 7.5", "8.0 or later"},
                     [] { require_gpu("Some GPU", 7, 5, true); });
  test::expect_error(
      ErrorKind::kUnsupported,
      {"Some GPU", "compute capability 12.0", backend::cuda_compiled_architectures(), "ARCHITECTURES=120-real"},
      [] { require_gpu("Some GPU", 12, 0, false); });
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
