// The bodies that the rows of moe_swiglu name.
#pragma once

#include "kernels/moe_swiglu/moe_swiglu.h"
#include "kernels/trellis_band/tier.h"

namespace fairway::kernels {

void moe_trellis_reference(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context);

// Trellis experts, for every tier of kernels/trellis_band/tiers.inc. One row of x per decode; a few rows from
// registers, more through panels; all rows through panels; each group in the way that suits its size, all groups of the
// call in one list of tasks in the order of their bit tuples.
template <const Tier& kTier>
void moe_decode(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context);
template <const Tier& kTier>
void moe_few(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context);
template <const Tier& kTier>
void moe_panel(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context);
template <const Tier& kTier>
void moe_grouped(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context);

void moe_dense_ref(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context);
void moe_dense_avx2(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context);
void moe_dense_avx512(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context);

}  // namespace fairway::kernels
