// moe_swiglu: for every group of tokens that share an expert, y = down(silu(gate(x)) * up(x)).
//
// The routing weights are applied by the caller when it sums a token's slots, in slot order, so the result does not
// depend on the number of threads. A dense MLP and a shared expert are groups like any other.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/context.h"
#include "kernels/common/matrix.h"
#include "kernels/common/registry.h"

namespace fairway::kernels {

// Sizes: gate and up [hidden -> intermediate], down [intermediate -> hidden]. All three trellis or all three dense.
struct ExpertWeights {
  LinearWeights gate, up, down;

  bool is_trellis() const { return gate.is_trellis(); }
  BitTuple bits() const {  // zero for dense experts
    if (!is_trellis()) return {};
    return {static_cast<std::uint8_t>(gate.trellis().bits), static_cast<std::uint8_t>(up.trellis().bits),
            static_cast<std::uint8_t>(down.trellis().bits)};
  }
};

// The tokens of one expert: rows[i] is the row of x, and slot_begin + i the row of y that receives the result.
struct ExpertGroup {
  const ExpertWeights* expert;
  const std::int32_t* rows;  // [m]
  int m;                     // >= 0
  std::int64_t slot_begin;
};

// x: [*, hidden], row stride ldx; y: [slots, hidden], dense rows. Groups may differ in widths, intermediate size and m.
struct MoeSwigluArgs {
  const float* x;
  std::int64_t ldx;
  int hidden;
  std::span<const ExpertGroup> groups;
  float* y;
};

// tile: the row's own or another legal one; Error(kUsage) if it is neither.
using MoeSwigluFn = void (*)(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context);

struct MoeSwigluRow {
  KernelRow info;
  MoeSwigluFn fn;
};

std::span<const MoeSwigluRow> moe_swiglu_rows();

}  // namespace fairway::kernels
