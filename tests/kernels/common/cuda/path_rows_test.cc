// Each path of the expert layer and of linears is the row of its place.
#include <gtest/gtest.h>

#include "kernels/common/cuda/gpu_features.h"
#include "kernels/common/cuda_rows.h"
#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"
#include "kernels/trellis_linear/cuda/trellis_linear_cuda.cuh"

namespace fairway::kernels::cuda {
namespace {

TEST(PathRows, ExpertLayer) {
  const std::span<const CudaRow> rows = cuda_rows_of("moe_swiglu");
  ASSERT_EQ(rows.size(), static_cast<std::size_t>(kMoePaths));
  MoeLayer plain{};
  plain.all_mul1 = false;
  for (int p = 0; p < kMoePaths; ++p) {
    const CudaRow& row = rows[static_cast<std::size_t>(p)];
    EXPECT_STREQ(row.path, moe_path_name(static_cast<MoePath>(p)));
    const bool wide = static_cast<MoePath>(p) == MoePath::kWide128;
    EXPECT_EQ(moe_path_legal(plain, static_cast<MoePath>(p)), !row.integer() && (!wide || gpu_features().wgmma))
        << row.id;
  }
}

TEST(PathRows, Linears) {
  const std::span<const CudaRow> rows = cuda_rows_of("trellis_linear");
  ASSERT_EQ(rows.size(), static_cast<std::size_t>(kLinearPaths));
  LinearCall other{};
  other.in = 128;
  other.rows = other.count = 1;
  other.outputs[0].out = other.outputs[0].out_exact = 128;
  other.max_bits = 3;
  for (int p = 0; p < kLinearPaths; ++p) {
    const CudaRow& row = rows[static_cast<std::size_t>(p)];
    EXPECT_STREQ(row.path, linear_path_name(static_cast<LinearPath>(p)));
    const auto path = static_cast<LinearPath>(p);
    const bool wide = path == LinearPath::kWide128, few = path == LinearPath::kHalfFew;
    const bool runs = (!wide || gpu_features().wgmma) && (!few || gpu_features().clusters);
    EXPECT_EQ(linear_path_legal(other, path), !row.integer() && runs) << row.id;
  }
}

}  // namespace
}  // namespace fairway::kernels::cuda
