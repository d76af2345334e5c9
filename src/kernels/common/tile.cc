// The refusal of illegal tiles.
#include "kernels/common/tile.h"

#include <fmt/format.h>

#include "fairway/error.h"

namespace fairway::kernels {

void check_tile(const Tile& tile, const char* who) {
  if (is_legal_tile(tile)) return;
  throw Error(
      ErrorKind::kUsage,
      fmt::format("{}: tile of m {}, n {}, {} workers; expected m of 1 or more, n of 64 or 128, and 1 worker, or "
                  "2 with an n of 64",
                  who, tile.m, tile.n, tile.workers));
}

void check_no_tile(const Tile& tile, const char* who) {
  if (tile == Tile{}) return;
  throw Error(ErrorKind::kUsage, fmt::format("{}: tile of m {}, n {}, {} workers, but this row takes none", who, tile.m,
                                             tile.n, tile.workers));
}

}  // namespace fairway::kernels
