// trellis_linear by definition, in double precision.
#include "kernels/trellis_band/reference.h"

#include <algorithm>

#include "kernels/trellis_band/driver.h"
#include "kernels/trellis_linear/rows.h"

namespace fairway::kernels {

void trellis_linear_reference(const TrellisLinearArgs& args, const Tile& tile, KernelContext& context) {
  check_no_tile(tile, "trellis_linear reference");
  if (args.m <= 0) return;
  const TrellisMatrix& matrix = *args.matrix;
  backend::Workspace::Scope scope(context.workspace);
  auto* rows = context.workspace.alloc<double>(static_cast<std::size_t>(args.m) * static_cast<std::size_t>(matrix.in));
  const std::size_t band_size = static_cast<std::size_t>(args.m) * kBandWidth;
  auto* outputs = context.workspace.alloc<double>(static_cast<std::size_t>(context.pool.size()) * band_size);
  context.pool.parallel_for(args.m, [&](std::int64_t r, int) {
    reference_transform_input(matrix, args.x + r * args.ldx, args.in_exact, rows + r * matrix.in);
  });
  context.pool.parallel_for(band_count(args.out_exact), [&](std::int64_t band, int worker) {
    double* y = outputs + static_cast<std::size_t>(worker) * band_size;
    reference_band(matrix, static_cast<int>(band), rows, args.m, y);
    const std::int64_t begin = band * kBandWidth;
    const std::int64_t count = std::min<std::int64_t>(kBandWidth, args.out_exact - begin);
    for (std::int64_t r = 0; r < args.m; ++r) {
      for (std::int64_t i = 0; i < count; ++i) {
        args.y[r * args.ldy + begin + i] = static_cast<float>(y[r * kBandWidth + i]);
      }
    }
  });
}

}  // namespace fairway::kernels
