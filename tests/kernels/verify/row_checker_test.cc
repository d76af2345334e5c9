// The check of `fairway verify` itself: it must notice rows that compute something else.
#include "kernels/verify/row_checker.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "backend/cpu/features.h"

namespace fairway::verify {
namespace {

using kernels::MoeSwigluArgs;
using kernels::MoeSwigluRow;
using kernels::Tile;
using kernels::TrellisLinearArgs;
using kernels::TrellisLinearRow;

const MoeSwigluRow& moe_reference() {
  return kernels::moe_swiglu_rows().front();
}

// A row of its own that runs the reference and then does something to the results.
template <class Row>
Row doctored(const Row& reference, const char* id, decltype(Row::fn) fn) {
  Row row = reference;
  row.info.id = id;
  row.info.backend = kernels::Backend::kCpuAvx2;
  row.fn = fn;
  return row;
}

RowReport check(const MoeSwigluRow& row) {
  CheckOptions options;
  options.rounds = 1;
  return check_rows({{&row}, {}}, options).front();
}

TEST(RowChecker, OneWrongRowOfOneExpertIsFound) {
  const auto wrong = [](const MoeSwigluArgs& args, const Tile& tile, kernels::KernelContext& context) {
    moe_reference().fn(args, tile, context);
    for (const kernels::ExpertGroup& group : args.groups) {
      if (group.m == 40) args.y[(group.slot_begin + 39) * args.hidden] *= -1;
    }
  };
  const RowReport report = check(doctored<MoeSwigluRow>(moe_reference(), "cpu_avx2/wrong", wrong));
  EXPECT_NE(report.mismatch.find("seed 1, round 0, "), std::string::npos) << report.mismatch;
  EXPECT_NE(report.mismatch.find("error norm"), std::string::npos) << report.mismatch;
  EXPECT_GT(report.worst_error, report.bound);
}

TEST(RowChecker, AnEmptyGroupThatIsForgottenIsFound) {
  const auto wrong = [](const MoeSwigluArgs& args, const Tile& tile, kernels::KernelContext& context) {
    std::vector<kernels::ExpertGroup> groups;
    for (const kernels::ExpertGroup& group : args.groups) {
      if (group.m != 1) groups.push_back(group);
    }
    moe_reference().fn({args.x, args.ldx, args.hidden, groups, args.y}, tile, context);
  };
  EXPECT_NE(check(doctored<MoeSwigluRow>(moe_reference(), "cpu_avx2/forgets", wrong)).mismatch, "");
}

TEST(RowChecker, TheReferencePassesWithEveryWidthAndCodebook) {
  const RowReport report = check(moe_reference());
  EXPECT_EQ(report.mismatch, "");
  EXPECT_EQ(report.widths, (std::set<int>{1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(report.codebooks, kernels::kAllCodebooks);
  EXPECT_EQ(report.most_tokens, 40);
}

TEST(RowChecker, WritingBetweenTheRowsOfALinearIsFound) {
  const auto wrong = [](const TrellisLinearArgs& args, const Tile& tile, kernels::KernelContext& context) {
    kernels::trellis_linear_rows().front().fn(args, tile, context);
    if (args.m > 1) args.y[args.out_exact] = 0;
  };
  CheckOptions options;
  options.rounds = 1;
  const auto& reference = kernels::trellis_linear_rows().front();
  const auto row = doctored<TrellisLinearRow>(reference, "cpu_avx2/writes", wrong);
  const RowReport report = check_rows({{}, {&row}}, options).front();
  EXPECT_NE(report.mismatch.find("beyond the outputs"), std::string::npos) << report.mismatch;
}

TEST(RowChecker, ARowThatFailsDoesNotStopTheOthers) {
  const auto wrong = [](const MoeSwigluArgs& args, const Tile&, kernels::KernelContext&) {
    std::fill_n(args.y, args.hidden, 0.0f);
  };
  const auto bad = doctored<MoeSwigluRow>(moe_reference(), "cpu_avx2/zero", wrong);
  CheckOptions options;
  options.rounds = 1;
  const std::vector<RowReport> reports = check_rows({{&bad, &moe_reference()}, {}}, options);
  EXPECT_NE(reports[0].mismatch, "");
  EXPECT_EQ(reports[0].calls, 1);
  EXPECT_EQ(reports[1].mismatch, "");
  EXPECT_EQ(reports[1].calls, 5);
}

TEST(RowChecker, CancelledRowsStopEarly) {
  const std::atomic<bool> cancel{true};
  CheckOptions options;
  options.cancel = &cancel;
  EXPECT_EQ(check_rows({{&moe_reference()}, {}}, options).front().calls, 0);
}

}  // namespace
}  // namespace fairway::verify
