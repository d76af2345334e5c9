// The rows of the CUDA kernels, as far as they can be checked without a toolkit.
#include "kernels/common/cuda_rows.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>
#include <string>

namespace fairway::kernels {
namespace {

TEST(CudaRows, IdsAreUniqueAndMadeOfBackendFamilyAndPath) {
  std::set<std::string> ids;
  for (const CudaRow& row : cuda_rows()) {
    EXPECT_EQ(row.id, fmt::format("{}/{}/{}", kCudaBackend, row.family, row.path));
    EXPECT_TRUE(ids.insert(row.id).second) << row.id;
    EXPECT_TRUE(std::filesystem::is_regular_file(fmt::format("{}/{}", FAIRWAY_SOURCE_DIR, row.source))) << row.source;
    EXPECT_TRUE(std::string(row.source).starts_with("src/kernels/")) << row.source;
    EXPECT_EQ(row.weights == WeightKind::kTrellis, row.codebooks != 0) << row.id;
    EXPECT_EQ(row.weights == WeightKind::kTrellis, row.tile_rows > 0) << row.id;
    EXPECT_EQ(row.integer(), row.codebooks == codebook_bit(codec::Codebook::kMul1)) << row.id;
  }
  EXPECT_TRUE(ids.contains("cuda_sm90/moe_trellis_swiglu_decode/int_direct"));
  EXPECT_TRUE(ids.contains("cuda_sm90/trellis_linear/wg_128"));
}

TEST(CudaRows, RowsOfAnOpStandTogether) {
  std::size_t together = 0;
  std::set<std::string> ops;
  for (const CudaRow& row : cuda_rows()) {
    if (ops.insert(row.op).second) together += cuda_rows_of(row.op).size();
  }
  EXPECT_EQ(together, cuda_rows().size());
  EXPECT_TRUE(cuda_rows_of("warp_drive").empty());
}

// The CPU's selection chooses among all_kernel_rows().
TEST(CudaRows, AreNotAmongTheRowsOfTheCpu) {
  for (const KernelRow* row : all_kernel_rows()) EXPECT_FALSE(std::string(row->id).starts_with(kCudaBackend));
}

}  // namespace
}  // namespace fairway::kernels
