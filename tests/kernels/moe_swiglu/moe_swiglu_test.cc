// Every trellis row of moe_swiglu: against the reference with mixed widths, padded sizes and all row counts, across
// rows and thread counts.
#include "kernels/moe_swiglu/moe_swiglu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <tuple>

#include "common/compare.h"
#include "fairway/error.h"
#include "kernels/moe_swiglu/expert_problem.h"

namespace fairway::kernels {
namespace {

constexpr int kRowCounts[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 32, 33};

// Consistent rows with the same of these give the same bits.
using Format = std::tuple<Activations, WeightCodes, std::uint8_t>;
Format format_of(const KernelRow& row) {
  return {row.activations, row.codes, row.codebooks};
}

void check_all_rows(const ExpertProblem& problem, std::uint8_t codebooks, int k) {
  const MoeSwigluRow& reference = moe_swiglu_rows().front();
  ASSERT_STREQ(reference.info.id, "cpu_ref/mixed_bpw_kernel");
  const std::vector<float> expected = problem.run(reference, 2);
  std::map<Format, std::vector<float>> consistent;
  int threads = 1;
  for (const MoeSwigluRow* row : trellis_moe_rows()) {
    if ((codebooks & ~row->info.codebooks) != 0) continue;
    SCOPED_TRACE(row->info.id);
    const std::vector<float> actual = problem.run(*row, threads);
    threads = threads % 3 + 1;
    EXPECT_EQ(test::compare(expected, actual, problem.hidden, bound_of(row->info, k)), "");
    if (row->info.numerics != Numerics::kConsistent) continue;
    const auto [first, inserted] = consistent.try_emplace(format_of(row->info), actual);
    if (!inserted) {
      EXPECT_EQ(test::compare_exact(first->second, actual), "");
    }
  }
}

std::uint8_t width(std::mt19937& random) {
  return static_cast<std::uint8_t>(FAIRWAY_MIN_BITS + random() % FAIRWAY_MAX_BITS);
}

TEST(MoeSwiglu, EveryWidthAndCodebook) {
  const unsigned seed = 4711;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (const codec::Codebook codebook : {codec::Codebook::k3inst, codec::Codebook::kMcg, codec::Codebook::kMul1}) {
    for (std::uint8_t bits = FAIRWAY_MIN_BITS; bits <= FAIRWAY_MAX_BITS; ++bits) {
      SCOPED_TRACE(testing::Message() << codec::codebook_name(codebook) << " bits " << int{bits});
      ExpertProblem problem(random, 128, 3);
      problem.add_group(random, 128, {bits, bits, bits}, codebook, 3);
      check_all_rows(problem, codebook_bit(codebook), 128);
    }
  }
}

TEST(MoeSwiglu, GroupsOfAllSizesWithTheirOwnWidthsAndIntermediateSizes) {
  const unsigned seed = 815;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const std::pair<int, codec::Codebook> cases[] = {{128, codec::Codebook::kMul1},
                                                   {200, codec::Codebook::kMul1},
                                                   {257, codec::Codebook::kMul1},
                                                   {200, codec::Codebook::kMcg}};
  for (const auto& [hidden, codebook] : cases) {
    SCOPED_TRACE(testing::Message() << "hidden " << hidden << " " << codec::codebook_name(codebook));
    ExpertProblem problem(random, hidden, 40);
    const int intermediates[] = {128, 96, 250, 384};
    for (const int m : kRowCounts) {
      const BitTuple bits{width(random), width(random), width(random)};
      problem.add_group(random, intermediates[random() % 4], bits, codebook, m);
    }
    check_all_rows(problem, codebook_bit(codebook), 384);
  }
}

TEST(MoeSwiglu, OneGroupOfEachSizeAlone) {
  const unsigned seed = 33;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (const int m : kRowCounts) {
    SCOPED_TRACE(testing::Message() << "m " << m);
    ExpertProblem problem(random, 130, 9);
    problem.add_group(random, 140, {3, 2, 4}, codec::Codebook::kMul1, m);
    check_all_rows(problem, codebook_bit(codec::Codebook::kMul1), 256);
  }
}

// More rows than one task takes and than are in flight at a time.
TEST(MoeSwiglu, LargeGroupsAreCutWithoutChangingTheResult) {
  const unsigned seed = 34;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  ExpertProblem problem(random, 128, 64);
  problem.add_group(random, 128, {2, 3, 2}, codec::Codebook::kMul1, 700);
  problem.add_group(random, 128, {4, 4, 4}, codec::Codebook::kMul1, 0);
  problem.add_group(random, 100, {4, 1, 2}, codec::Codebook::kMul1, 517);
  problem.add_group(random, 128, {1, 1, 1}, codec::Codebook::kMul1, 1);
  check_all_rows(problem, codebook_bit(codec::Codebook::kMul1), 128);
}

// If gate and up have equal input scales the prepared rows are shared; the result must not change.
TEST(MoeSwiglu, SharedInputScales) {
  std::mt19937 random(35);
  ExpertProblem problem(random, 256, 4);
  problem.add_group(random, 128, {3, 3, 3}, codec::Codebook::kMul1, 4);
  auto& weights = problem.experts[0]->weights;
  std::get<TrellisMatrix>(weights.up.matrix).suh = weights.gate.trellis().suh;
  check_all_rows(problem, codebook_bit(codec::Codebook::kMul1), 256);
}

// Tokens that go to several experts are prepared once for all that share an input scale, known by its address: the bits
// must be those of experts with copies of the scale. Two experts in between have scales of their own.
TEST(MoeSwiglu, ExpertsThatShareAnInputScale) {
  std::mt19937 random(40);
  ExpertProblem problem(random, 200, 20);
  for (const int m : {1, 20, 3, 0, 17, 2, 1}) {
    problem.add_group(random, 128, {width(random), width(random), 3}, codec::Codebook::kMul1, m);
  }
  const float* scale = problem.experts[0]->weights.gate.trellis().suh;
  std::vector<std::vector<float>> copies;
  const auto use = [&](bool shared) {
    for (std::size_t e = 0; e < problem.experts.size(); ++e) {
      if (e == 2 || e == 5) continue;
      copies.emplace_back(scale, scale + 256);
      const float* own = shared ? scale : copies.back().data();
      for (LinearWeights* weights : {&problem.experts[e]->weights.gate, &problem.experts[e]->weights.up}) {
        std::get<TrellisMatrix>(weights->matrix).suh = own;
      }
    }
  };
  for (const MoeSwigluRow* row : trellis_moe_rows()) {
    if (!(row->info.codebooks & codebook_bit(codec::Codebook::kMul1))) continue;
    use(false);
    const std::vector<float> separate = problem.run(*row, 2);
    use(true);
    EXPECT_EQ(test::compare_exact(separate, problem.run(*row, 2)), "") << row->info.id;
  }
  check_all_rows(problem, codebook_bit(codec::Codebook::kMul1), 256);
}

// The down projection may be stored with more padding than gate and up; the extra inputs count as zero.
TEST(MoeSwiglu, DownMayBePaddedFurther) {
  std::mt19937 random(36);
  ExpertProblem problem(random, 128, 4);
  problem.add_group(random, 100, {3, 2, 3}, codec::Codebook::kMul1, 3);
  const test::RandomTrellis wide_down(random, 300, 128, 3, codec::Codebook::kMul1, false);
  problem.experts[0]->weights.down = wide_down.linear();
  problem.experts[0]->weights.down.in = 100;
  check_all_rows(problem, codebook_bit(codec::Codebook::kMul1), 384);
}

TEST(MoeSwiglu, ThreadsDoNotMatter) {
  const unsigned seed = 37;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  for (const MoeSwigluRow* row : trellis_moe_rows()) {
    std::mt19937 random(seed);
    ExpertProblem problem(random, 384, 20);
    for (const int m : {1, 6, 19}) {
      const BitTuple bits{width(random), width(random), width(random)};
      problem.add_group(random, 256, bits, test::codebook_of(row->info), m);
    }
    const std::vector<float> one = problem.run(*row, 1);
    EXPECT_EQ(test::compare_exact(one, problem.run(*row, 2)), "") << row->info.id;
    EXPECT_EQ(test::compare_exact(one, problem.run(*row, 3)), "") << row->info.id;
  }
}

TEST(MoeSwiglu, WarmWorkspaceDoesNotGrow) {
  for (const MoeSwigluRow* row : trellis_moe_rows()) {
    std::mt19937 random(38);
    ExpertProblem problem(random, 128, 20);
    problem.add_group(random, 128, {3, 3, 3}, test::codebook_of(row->info), 20);
    problem.add_group(random, 256, {2, 3, 4}, test::codebook_of(row->info), 5);
    backend::ThreadPool pool(2);
    backend::Workspace workspace;
    KernelContext context{pool, workspace};
    std::vector<float> y(static_cast<std::size_t>(problem.slots * problem.hidden));
    const MoeSwigluArgs args{problem.x.data(), problem.hidden + 7, problem.hidden, problem.groups, y.data()};
    row->fn(args, row->info.tile, context);
    const std::size_t reserved = workspace.reserved_bytes();
    row->fn(args, row->info.tile, context);
    EXPECT_EQ(workspace.reserved_bytes(), reserved) << row->info.id;
  }
}

TEST(MoeSwiglu, RowsRefuseCodebooksTheyDoNotRead) {
  std::mt19937 random(39);
  for (const codec::Codebook codebook : {codec::Codebook::k3inst, codec::Codebook::kMcg, codec::Codebook::kMul1}) {
    ExpertProblem problem(random, 128, 1);
    problem.add_group(random, 128, {3, 3, 3}, codebook, 1);
    for (const MoeSwigluRow* row : trellis_moe_rows()) {
      if (row->info.codebooks & codebook_bit(codebook)) continue;
      EXPECT_THROW(problem.run(*row, 1), Error) << row->info.id;
    }
  }
}

}  // namespace
}  // namespace fairway::kernels
