// The bodies that the rows of trellis_linear name.
#pragma once

#include "kernels/trellis_band/tier.h"
#include "kernels/trellis_linear/trellis_linear.h"

namespace fairway::kernels {

void trellis_linear_reference(const TrellisLinearArgs& args, const Tile& tile, KernelContext& context);

// For every tier of kernels/trellis_band/tiers.inc; how rows share a decode follows from their number.
template <const Tier& kTier>
void trellis_linear(const TrellisLinearArgs& args, const Tile& tile, KernelContext& context);

}  // namespace fairway::kernels
