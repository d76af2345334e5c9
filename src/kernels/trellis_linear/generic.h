// The driver of trellis_linear over band kernels: prepare the rows, then one task per band and block of rows.
#pragma once

#include <algorithm>

#include "kernels/trellis_band/driver.h"
#include "kernels/trellis_linear/trellis_linear.h"

namespace fairway::kernels {

// The band kernels of one row by the number of rows of x that share a decode.
struct TrellisLinearBodies {
  const char* id;
  const BandKernel* single;  // m = 1
  const BandKernel* quad;    // m = 2..4
  const BandKernel* panel;   // above

  const BandKernel& pick(int m) const { return m <= 1 ? *single : m <= 4 ? *quad : *panel; }
};

// Rows of one task at most: bounds the buffers of a worker, and the next rows pay for one more decode of the band.
constexpr int kLinearRowBlock = 256;
constexpr int kLinearSmallRowBlock = 64;  // if larger blocks would leave workers idle

inline void run_trellis_linear(const TrellisLinearArgs& args, KernelContext& context,
                               const TrellisLinearBodies& bodies) {
  if (args.m <= 0) return;
  const BandKernel& kernel = bodies.pick(args.m);
  const TrellisMatrix& matrix = *args.matrix;
  check_domain(kernel, matrix, bodies.id);

  backend::Workspace::Scope scope(context.workspace);
  const int workers = context.pool.size();
  const int bands = band_count(args.out_exact);
  int block = std::min(args.m, kLinearRowBlock);
  if ((args.m + block - 1) / block * bands < 4 * workers) block = std::min(block, kLinearSmallRowBlock);

  const std::int64_t stride = aligned_row_bytes(kernel, matrix.in);
  auto* rows = context.workspace.alloc<std::uint8_t>(static_cast<std::size_t>(args.m * stride));
  const std::int64_t worker_floats = std::int64_t{block} * kBandWidth;
  auto* outputs = context.workspace.alloc<float>(static_cast<std::size_t>(workers * worker_floats));
  auto* scratch = context.workspace.alloc<std::uint8_t>(static_cast<std::size_t>(workers) * kernel.scratch_bytes);

  context.pool.parallel_for(args.m, [&](std::int64_t r, int) {
    prepare_row(kernel, matrix, args.x + r * args.ldx, args.in_exact, rows + r * stride);
  });
  const std::int64_t row_blocks = (args.m + block - 1) / block;
  context.pool.parallel_for(bands * row_blocks, [&](std::int64_t task, int worker) {
    const int band = static_cast<int>(task / row_blocks);
    const int first = static_cast<int>(task % row_blocks) * block;
    const int m = std::min(block, args.m - first);
    float* y = outputs + worker * worker_floats;
    compute_band(kernel, {matrix, band, matrix, band + context.pool.size()}, rows + first * stride, stride, m, y,
                 scratch + static_cast<std::size_t>(worker) * kernel.scratch_bytes);
    const int begin = band * kBandWidth;
    const int count = std::min(kBandWidth, args.out_exact - begin);
    for (int r = 0; r < m; ++r) std::copy_n(y + r * kBandWidth, count, args.y + (first + r) * args.ldy + begin);
  });
}

}  // namespace fairway::kernels
