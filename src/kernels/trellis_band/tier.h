// The band kernels of one instruction set and format, and which of them multiplies m rows.
#pragma once

#include <algorithm>

#include "kernels/trellis_band/trellis_band.h"

namespace fairway::kernels {

// The kernels of a tier read the same codebooks; they differ in how rows share a decode, and may differ in how rows are
// prepared and weights are read.
struct Tier {
  const char* name;
  const BandKernel* single;  // every row decodes for itself
  int few_rows;              // as many as `few` multiplies from registers in one decode
  const BandKernel* few;
  const BandKernel* panel;         // any number, through decoded panels of 64 columns
  const BandKernel* wide;          // of 128 columns; where it is `panel` itself, half bands make its 64
  const BandKernel* coarse_panel;  // the same with weights read less exactly
  const BandKernel* coarse_wide;
};

#define FAIRWAY_TIER(name, single, few_rows, few, panel, wide, coarse_panel, coarse_wide) \
  inline constexpr Tier kTier##name{                                                      \
      #name,        &kBand##single,       few_rows,           &kBand##few, &kBand##panel, \
      &kBand##wide, &kBand##coarse_panel, &kBand##coarse_wide};
#include "kernels/trellis_band/tiers.inc"
#undef FAIRWAY_TIER

// How the rows of an expert or matrix share a decode: not at all, in registers where that is possible, in panels, or
// whichever suits their number.
enum class Sharing { kNone, kFew, kPanel, kBySize };

struct SharedDecode {
  const BandKernel* kernel;
  bool by_halves;  // call the kernel for one half of a band after the other
};

// m: all rows of the expert or matrix, so that cutting them into tasks does not change the result. n: columns of a
// panel, Tile::n. coarse: whether weights may be read less exactly.
constexpr SharedDecode share_decode(const Tier& tier, Sharing sharing, int m, int n, bool coarse) {
  if (sharing == Sharing::kNone || (sharing == Sharing::kBySize && m == 1)) return {tier.single, false};
  if (sharing != Sharing::kPanel && m <= tier.few_rows) return {tier.few, false};
  const BandKernel* panel = coarse ? tier.coarse_panel : tier.panel;
  const BandKernel* wide = coarse ? tier.coarse_wide : tier.wide;
  if (n == kBandWidth) return {wide, false};
  return {panel, panel == wide};
}

// For any of the tier's kernels.
inline std::size_t scratch_bytes(const Tier& tier) {
  std::size_t bytes = 0;
  for (const BandKernel* kernel : {tier.single, tier.few, tier.panel, tier.wide, tier.coarse_panel, tier.coarse_wide}) {
    bytes = std::max(bytes, kernel->scratch_bytes);
  }
  return bytes;
}

}  // namespace fairway::kernels
