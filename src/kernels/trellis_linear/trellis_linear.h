// trellis_linear: y[M, out] = (((x * suh) H) inner) H * svh + bias for one trellis-coded matrix.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/context.h"
#include "kernels/common/matrix.h"
#include "kernels/common/registry.h"

namespace fairway::kernels {

// x: [m, in_exact] with row stride ldx (elements); columns in_exact .. matrix.in count as zero.
// y: [m, out_exact] with row stride ldy; columns beyond out_exact are not written. x and y must not overlap.
struct TrellisLinearArgs {
  const TrellisMatrix* matrix;
  const float* x;
  std::int64_t ldx;
  int in_exact;
  float* y;
  std::int64_t ldy;
  int out_exact;
  int m;
};

// tile: the row's own or another legal one; Error(kUsage) if it is neither.
using TrellisLinearFn = void (*)(const TrellisLinearArgs& args, const Tile& tile, KernelContext& context);

struct TrellisLinearRow {
  KernelRow info;
  TrellisLinearFn fn;
};

std::span<const TrellisLinearRow> trellis_linear_rows();

}  // namespace fairway::kernels
