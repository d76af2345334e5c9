// Runs the tests in folders named cuda. Suites whose name begins with Gpu need a device that the program has code for;
// those that end in Full run only if the filter is given. Tests that do not run are named with the reason and not
// counted. The last line is the count.
#include <fmt/format.h>
#include <fnmatch.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "backend/cuda/device.h"
#include "kernels/common/cuda/gpu_features.h"

namespace fairway::test {
namespace {

// Suites that do not run in this call, and why.
struct LeftOut {
  const char* pattern;  // of GoogleTest's filter
  std::string reason;
};

std::vector<LeftOut> left_out(const std::string& absence) {
  if (!absence.empty()) return {{"Gpu*", absence}};
  const std::string refusal = kernels::cuda::gpu_refusal(0);
  if (!refusal.empty()) return {{"Gpu*", refusal}};
  std::vector<LeftOut> list;
  const bool everything = std::string(GTEST_FLAG_GET(filter)) == "*";
  if (everything) list.push_back({"Gpu*Full.*", "they take long; --gtest_filter='Gpu*Full.*' runs them"});
  return list;
}

// Takes them out of the filter. Returns "SUITE.TEST (reason)" of each test.
std::vector<std::string> leave_out(const std::vector<LeftOut>& list) {
  std::string filter = GTEST_FLAG_GET(filter);
  for (const LeftOut& suites : list) {
    filter += (filter.find('-') == std::string::npos ? "-" : ":") + std::string(suites.pattern);
  }
  GTEST_FLAG_SET(filter, filter);
  std::vector<std::string> tests;
  const testing::UnitTest& all = *testing::UnitTest::GetInstance();
  for (int i = 0; i < all.total_test_suite_count(); ++i) {
    const testing::TestSuite& suite = *all.GetTestSuite(i);
    for (int k = 0; k < suite.total_test_count(); ++k) {
      const std::string name = fmt::format("{}.{}", suite.name(), suite.GetTestInfo(k)->name());
      for (const LeftOut& suites : list) {
        if (fnmatch(suites.pattern, name.c_str(), 0) != 0) continue;
        tests.push_back(fmt::format("{} ({})", name, suites.reason));
        break;
      }
    }
  }
  return tests;
}

int run(bool gpu_required) {
  const std::string absence = backend::cuda_absence_reason();
  const std::vector<std::string> not_run = leave_out(left_out(absence));
  int status = RUN_ALL_TESTS();
  for (const std::string& test : not_run) std::printf("not run here: %s\n", test.c_str());
  if (!absence.empty() && gpu_required) {
    std::printf("--require-gpu: there is no GPU (%s)\n", absence.c_str());
    status = 1;
  }
  const testing::UnitTest& all = *testing::UnitTest::GetInstance();
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
