// Tile parameters of the rows of trellis_linear: any legal tile gives the same result, an illegal one is refused.
#include "kernels/common/tile.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "fairway/error.h"
#include "kernels/trellis_linear/linear_problem.h"

namespace fairway::kernels {
namespace {

void check_tiles(const TrellisLinearRow& row, const test::RandomTrellis& weights, const std::vector<float>& x, int m) {
  const std::vector<float> expected = run(row, weights, x, m, 1);
  for (const int tile_m : {1, 7, 64}) {
    for (const Tile tile : {Tile{tile_m, 64, 1}, Tile{tile_m, 128, 1}, Tile{tile_m, 64, 2}}) {
      SCOPED_TRACE(fmt::format("{} m {}, tile {} {} {}", row.info.id, m, tile.m, tile.n, tile.workers));
      const std::vector<float> actual = run(row, weights, x, m, 1 + tile_m % 3, tile);
      expect_same(row.info, expected, actual, weights.in_exact(), weights.out_exact());
    }
  }
  EXPECT_THROW(run(row, weights, x, m, 1, {16, 128, 2}), Error) << row.info.id;
}

TEST(TrellisLinearTile, EveryLegalTileGivesTheSameBits) {
  const unsigned seed = 13;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (const codec::Codebook codebook : {codec::Codebook::k3inst, codec::Codebook::kMul1}) {
    const test::RandomTrellis weights(random, 300, 330, 3, codebook, true);
    for (const int m : {1, 5, 71}) {
      const std::vector<float> x = random_rows(random, m, 300);
      for (const TrellisLinearRow* row : rows_that_read(codebook)) {
        if (row->info.tile == Tile{}) {
          EXPECT_THROW(run(*row, weights, x, m, 1, {16, 64, 1}), Error) << row->info.id;
        } else {
          check_tiles(*row, weights, x, m);
        }
      }
    }
  }
}

}  // namespace
}  // namespace fairway::kernels
