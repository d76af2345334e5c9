// What `fairway verify --device cuda` runs: every row agrees with the reference, and meets every width and codebook.
#include "kernels/verify/device_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <string_view>

#include "fairway/error.h"
#include "kernels/common/cuda/case_size.h"

namespace fairway::verify {
namespace {

const DeviceCheckSizes kSizes = kernels::cuda::check::by_size<DeviceCheckSizes>(
    {}, {.most_tokens = 4, .most_linear_rows = 2, .most_size = 128, .widths_together = true});

// That a round calls a row with, at the largest.
int least_tokens(const kernels::CudaRow& row) {
  // A layer of experts of one codebook is called with one of the large numbers of tokens.
  if (row.op == std::string_view("moe_swiglu")) return std::min(kSizes.most_tokens, 9);
  const bool few = std::string_view(row.path).ends_with("_few");  // takes no more than share a decode
  return few ? std::min(kSizes.most_linear_rows, row.tile_rows / 2 + 1) : kSizes.most_linear_rows;
}

TEST(GpuDeviceCheck, EveryRowAgreesWithTheReference) {
  std::vector<const kernels::CudaRow*> rows = checkable_cuda_rows();
  std::erase_if(rows, [](const kernels::CudaRow* row) { return !kernels::cuda_row_refusal(*row, 0).empty(); });
  if (kernels::cuda::check::single_runs()) {  // all paths have tests of their own: one of each operation
    const auto same_op = [](const auto* a, const auto* b) { return std::string_view(a->op) == b->op; };
    rows.erase(std::unique(rows.begin(), rows.end(), same_op), rows.end());
  }
  const std::vector<DeviceRowReport> reports = check_cuda_rows(rows, 0, {.rounds = 1}, kSizes);
  ASSERT_EQ(reports.size(), rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const DeviceRowReport& report = reports[i];
    EXPECT_EQ(report.row, rows[i]);
    EXPECT_EQ(report.mismatch, "") << report.row->id;
    EXPECT_EQ(report.widths.size(), 8u) << report.row->id;
    EXPECT_EQ(report.codebooks, report.row->codebooks) << report.row->id;
    EXPECT_GT(report.worst_error, 0) << report.row->id;
    EXPECT_LE(report.worst_error, report.bound) << report.row->id;
    EXPECT_GE(report.most_tokens, least_tokens(*report.row)) << report.row->id;
  }
}

TEST(GpuDeviceCheck, StopsWhenCancelled) {
  const std::atomic<bool> cancel = true;
  for (const DeviceRowReport& report : check_cuda_rows(checkable_cuda_rows(), 0, {.cancel = &cancel})) {
    EXPECT_EQ(report.calls, 0);
  }
}

TEST(GpuDeviceCheck, RefusesADeviceThatIsNotThere) {
  EXPECT_THROW(check_cuda_rows(checkable_cuda_rows(), 97, {}), Error);
}

}  // namespace
}  // namespace fairway::verify
