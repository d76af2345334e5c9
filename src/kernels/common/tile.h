// Tile parameters of the trellis and expert bodies: what a tuner may turn. They change speed, and no result of a
// row whose numerics are consistent.
#pragma once

namespace fairway::kernels {

// A row carries its default; a caller may pass any other legal tile. All zero: the row's body takes no tile.
struct Tile {
  int m = 0;        // rows of x that share one decode of a band: the rows of one task at most
  int n = 0;        // columns of a decoded panel, 64 or 128; bodies without a panel are the same for both
  int workers = 0;  // per tile: how many share one band of 128 outputs; 2 take 64 columns each, so n is 64 then
  friend bool operator==(const Tile&, const Tile&) = default;
};

constexpr bool is_legal_tile(const Tile& tile) {
  return tile.m >= 1 && (tile.n == 64 || tile.n == 128) && (tile.workers == 1 || (tile.workers == 2 && tile.n == 64));
}

// Error(kUsage) with the values if a body that takes tiles is handed an illegal one, or one that takes none any at all.
void check_tile(const Tile& tile, const char* who);
void check_no_tile(const Tile& tile, const char* who);

}  // namespace fairway::kernels
