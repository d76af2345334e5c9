// Runs the tests in folders named cuda. Those of suites whose name begins with Gpu need a device; where there is none,
// they are named with the reason and not counted. The last line is the count.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>

#include "backend/cuda/device.h"

namespace fairway::test {
namespace {

constexpr const char* kGpuSuites = "Gpu*";

void print_not_run(const std::string& reason) {
  const testing::UnitTest& all = *testing::UnitTest::GetInstance();
  for (int i = 0; i < all.total_test_suite_count(); ++i) {
    const testing::TestSuite& suite = *all.GetTestSuite(i);
    if (std::strncmp(suite.name(), "Gpu", 3) != 0) continue;
    for (int k = 0; k < suite.total_test_count(); ++k) {
      std::printf("not run here: %s.%s (%s)\n", suite.name(), suite.GetTestInfo(k)->name(), reason.c_str());
    }
  }
}

void leave_out_gpu_suites() {
  const std::string filter = GTEST_FLAG_GET(filter);
  GTEST_FLAG_SET(filter, filter + (filter.find('-') == std::string::npos ? "-" : ":") + kGpuSuites);
}

int run(bool gpu_required) {
  const std::string reason = backend::cuda_absence_reason();
  if (!reason.empty()) leave_out_gpu_suites();
  int status = RUN_ALL_TESTS();
  const testing::UnitTest& all = *testing::UnitTest::GetInstance();
  if (!reason.empty()) print_not_run(reason);
  if (!reason.empty() && gpu_required) {
    std::printf("--require-gpu: there is no GPU (%s)\n", reason.c_str());
    status = 1;
  }
  std::printf("%d passed, %d failed\n", all.successful_test_count(), all.failed_test_count());
  return status;
}

}  // namespace
}  // namespace fairway::test

// cuda_tests [--require-gpu] [GoogleTest's options]: with --require-gpu a machine without a device is a failure.
int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  bool gpu_required = false;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) != "--require-gpu") {
      std::fprintf(stderr, "cuda_tests: unknown option %s\n", argv[i]);
      return 2;
    }
    gpu_required = true;
  }
  return fairway::test::run(gpu_required);
}
