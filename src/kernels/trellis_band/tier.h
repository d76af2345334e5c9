// The band kernels of one instruction set and activation format, and which of them multiplies m rows.
#pragma once

#include <algorithm>

#include "kernels/trellis_band/trellis_band.h"

namespace fairway::kernels {

// All kernels of a tier read the same prepared rows and give the same bits; they differ in how rows share a decode.
struct Tier {
  const char* name;
  const BandKernel* single;  // every row decodes for itself
  int few_rows;              // as many as `few` multiplies from registers in one decode
  const BandKernel* few;
  const BandKernel* panel;  // any number, through decoded panels of 64 columns
  const BandKernel* wide;   // of 128 columns; where it is `panel` itself, half bands make its 64
};

#define FAIRWAY_TIER(name, single, few_rows, few, panel, wide) \
  inline constexpr Tier kTier##name{#name, &kBand##single, few_rows, &kBand##few, &kBand##panel, &kBand##wide};
#include "kernels/trellis_band/tiers.inc"
#undef FAIRWAY_TIER

// How the rows of a task share a decode: not at all, in registers where that is possible, in panels, or whichever suits
// their number.
enum class Sharing { kNone, kFew, kPanel, kBySize };

struct SharedDecode {
  const BandKernel* kernel;
  bool by_halves;  // call the kernel for one half of a band after the other
};

// n: columns of a panel, Tile::n.
constexpr SharedDecode share_decode(const Tier& tier, Sharing sharing, int m, int n) {
  if (sharing == Sharing::kNone || (sharing == Sharing::kBySize && m == 1)) return {tier.single, false};
  if (sharing != Sharing::kPanel && m <= tier.few_rows) return {tier.few, false};
  if (n == kBandWidth) return {tier.wide, false};
  return {tier.panel, tier.panel == tier.wide};
}

// For any of the tier's kernels.
inline std::size_t scratch_bytes(const Tier& tier) {
  return std::max(
      {tier.single->scratch_bytes, tier.few->scratch_bytes, tier.panel->scratch_bytes, tier.wide->scratch_bytes});
}

}  // namespace fairway::kernels
