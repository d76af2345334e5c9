// Tile parameters of the expert rows: any legal tile gives the same bits, an illegal one is refused.
#include "kernels/common/tile.h"

#include <gtest/gtest.h>

#include "common/compare.h"
#include "fairway/error.h"
#include "kernels/moe_swiglu/expert_problem.h"

namespace fairway::kernels {
namespace {

std::vector<Tile> legal_tiles() {
  std::vector<Tile> tiles;
  for (const int m : {1, 7, 64}) {
    for (const Tile tile : {Tile{m, 64, 1}, Tile{m, 128, 1}, Tile{m, 64, 2}}) tiles.push_back(tile);
  }
  return tiles;
}

constexpr Tile kIllegalTiles[] = {{0, 64, 1},  {-1, 128, 1}, {16, 0, 1},   {16, 32, 1},  {16, 96, 1}, {16, 256, 1},
                                  {16, 64, 0}, {16, 64, 3},  {16, 128, 2}, {16, 64, -1}, {}};

std::string name_of(const Tile& tile) {
  return "m " + std::to_string(tile.m) + " n " + std::to_string(tile.n) + " workers " + std::to_string(tile.workers);
}

// Same bits for consistent rows; others stay within their bound, so within twice of it of each other.
void expect_same(const KernelRow& row, const std::vector<float>& expected, const std::vector<float>& actual,
                 int hidden) {
  if (row.numerics == Numerics::kConsistent) {
    EXPECT_EQ(test::compare_exact(expected, actual), "");
  } else {
    EXPECT_EQ(test::compare(expected, actual, hidden, {.row_relative = 2 * bound_of(row, 256).row_relative}), "");
  }
}

TEST(MoeSwigluTile, EveryLegalTileGivesTheSameBits) {
  const unsigned seed = 51;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  int threads = 1;
  for (const MoeSwigluRow* row : trellis_moe_rows()) {
    if (row->info.tile == Tile{}) continue;
    std::mt19937 random(seed);
    ExpertProblem problem(random, 200, 30);
    for (const int m : {1, 3, 0, 8, 71}) {
      const auto bits = static_cast<std::uint8_t>(1 + random() % 8);
      problem.add_group(random, 250, {bits, 3, 2}, test::codebook_of(row->info), m);
    }
    const std::vector<float> expected = problem.run(*row, 2);
    for (const Tile& tile : legal_tiles()) {
      threads = threads % 3 + 1;
      SCOPED_TRACE(testing::Message() << row->info.id << " " << name_of(tile) << " threads " << threads);
      expect_same(row->info, expected, problem.run(*row, threads, tile), problem.hidden);
    }
  }
}

// Two workers per band, more threads than bands, bands of padding, and a bias, which must be added once.
TEST(MoeSwigluTile, SharedBandsAreFinishedOnce) {
  const unsigned seed = 52;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  for (const MoeSwigluRow* row : trellis_moe_rows()) {
    if (row->info.tile == Tile{}) continue;
    SCOPED_TRACE(row->info.id);
    std::mt19937 random(seed);
    const codec::Codebook codebook = test::codebook_of(row->info);
    ExpertProblem problem(random, 128, 2);
    for (int expert = 0; expert < 2; ++expert) problem.add_group(random, 100, {2, 3, 4}, codebook, 2);
    const test::RandomTrellis wide_down(random, 300, 128, 3, codebook, false);
    problem.experts[1]->weights.down = wide_down.linear();
    problem.experts[1]->weights.down.in = 100;
    const std::vector<float> expected = problem.run(*row, 1);
    for (int repeat = 0; repeat < 20; ++repeat) {
      expect_same(row->info, expected, problem.run(*row, 4, {16, 64, 2}), problem.hidden);
    }
  }
}

TEST(MoeSwigluTile, IllegalTilesAreRefused) {
  for (const MoeSwigluRow* row : trellis_moe_rows()) {
    std::mt19937 random(53);
    ExpertProblem problem(random, 128, 1);
    problem.add_group(random, 128, {3, 3, 3}, test::codebook_of(row->info), 1);
    if (row->info.tile == Tile{}) {
      EXPECT_THROW(problem.run(*row, 1, {16, 64, 1}), Error) << row->info.id;
      continue;
    }
    for (const Tile& tile : kIllegalTiles) {
      EXPECT_FALSE(is_legal_tile(tile)) << name_of(tile);
      EXPECT_THROW(problem.run(*row, 1, tile), Error) << row->info.id << " " << name_of(tile);
    }
  }
}

TEST(MoeSwigluTile, TheRefusalNamesTheValues) {
  try {
    check_tile({16, 128, 2}, "some op");
    ADD_FAILURE() << "no error was thrown";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(e.what()).find("some op: tile of m 16, n 128, 2 workers"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace fairway::kernels
