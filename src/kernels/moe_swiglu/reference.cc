// moe_swiglu of trellis-coded experts by definition, in double precision, any mixture of widths.
#include "kernels/trellis_band/reference.h"

#include <algorithm>
#include <cmath>

#include "kernels/moe_swiglu/rows.h"
#include "kernels/trellis_band/driver.h"

namespace fairway::kernels {
namespace {

// y[m][linear.out] for rows x[m][count].
void linear(const LinearWeights& weights, const float* x, std::int64_t ldx, int count, int m, float* y,
            KernelContext& context) {
  const TrellisMatrix& matrix = weights.trellis();
  backend::Workspace::Scope scope(context.workspace);
  auto* rows = context.workspace.alloc<double>(static_cast<std::size_t>(m) * static_cast<std::size_t>(matrix.in));
  const std::size_t band_size = static_cast<std::size_t>(m) * kBandWidth;
  auto* outputs = context.workspace.alloc<double>(static_cast<std::size_t>(context.pool.size()) * band_size);
  for (std::int64_t r = 0; r < m; ++r) reference_transform_input(matrix, x + r * ldx, count, rows + r * matrix.in);
  context.pool.parallel_for(band_count(weights.out), [&](std::int64_t band, int worker) {
    double* out = outputs + static_cast<std::size_t>(worker) * band_size;
    reference_band(matrix, static_cast<int>(band), rows, m, out);
    const std::int64_t begin = band * kBandWidth;
    const std::int64_t width = std::min<std::int64_t>(kBandWidth, weights.out - begin);
    for (std::int64_t r = 0; r < m; ++r) {
      for (std::int64_t i = 0; i < width; ++i) {
        y[r * weights.out + begin + i] = static_cast<float>(out[r * kBandWidth + i]);
      }
    }
  });
}

void run_group(const MoeSwigluArgs& args, const ExpertGroup& group, KernelContext& context) {
  const ExpertWeights& e = *group.expert;
  backend::Workspace::Scope scope(context.workspace);
  const auto m = static_cast<std::size_t>(group.m);
  const std::int64_t hidden = args.hidden;
  auto* x = context.workspace.alloc<float>(m * static_cast<std::size_t>(hidden));
  auto* gate = context.workspace.alloc<float>(m * static_cast<std::size_t>(e.gate.out));
  auto* up = context.workspace.alloc<float>(m * static_cast<std::size_t>(e.up.out));
  for (std::int64_t r = 0; r < group.m; ++r) {
    std::copy_n(args.x + group.rows[r] * args.ldx, hidden, x + r * hidden);
  }
  linear(e.gate, x, hidden, args.hidden, group.m, gate, context);
  linear(e.up, x, hidden, args.hidden, group.m, up, context);
  for (std::int64_t i = 0; i < std::int64_t{group.m} * e.gate.out; ++i) {
    const double g = gate[i];
    gate[i] = static_cast<float>(g / (1.0 + std::exp(-g)) * up[i]);
  }
  linear(e.down, gate, e.gate.out, e.gate.out, group.m, args.y + group.slot_begin * hidden, context);
}

}  // namespace

void moe_trellis_reference(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context) {
  check_no_tile(tile, "moe_swiglu reference");
  for (const ExpertGroup& group : args.groups) {
    if (group.m > 0) run_group(args, group, context);
  }
}

}  // namespace fairway::kernels
