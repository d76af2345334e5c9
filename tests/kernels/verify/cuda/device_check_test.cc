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

TEST(GpuDeviceCheck, EveryRowAgreesWithTheReference) {
  std::vector<const kernels::CudaRow*> rows = checkable_cuda_rows();
  std::erase_if(rows, [](const kernels::CudaRow* row) { return !kernels::cuda_row_refusal(*row, 0).empty(); });
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
    // A round calls a layer of experts of one codebook with one of the large numbers of tokens.
    const bool experts = report.row->op == std::string_view("moe_swiglu");
    EXPECT_GE(report.most_tokens, experts ? std::min(kSizes.most_tokens, 9) : kSizes.most_linear_rows)
        << report.row->id;
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
