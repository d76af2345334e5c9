// The vectorised rows of trellis_linear: prepare the rows, then one task per band (or half of one) and block of rows.
#include <algorithm>
#include <atomic>

#include "kernels/trellis_band/driver.h"
#include "kernels/trellis_linear/rows.h"

namespace fairway::kernels {
namespace {

constexpr int kLinearSmallRowBlock = 64;  // most rows of a task if larger blocks would leave workers idle

class LinearDriver {
 public:
  LinearDriver(const Tier& tier, const TrellisLinearArgs& args, const Tile& tile, KernelContext& context)
      : decode_(share_decode(tier, Sharing::kBySize, args.m, tile.n, false)),
        args_(args),
        matrix_(*args.matrix),
        tile_(tile),
        context_(context),
        bands_(band_count(args.out_exact)),
        stride_(aligned_row_bytes(*decode_.kernel, args.matrix->in)) {
    const int most = std::min(args.m, tile.m);
    const int blocks = (args.m + most - 1) / most;
    const bool few = blocks * bands_ < 4 * context.pool.size();
    const int block = few ? std::min(most, kLinearSmallRowBlock) : most;
    const int even = (args.m + block - 1) / block;
    block_ = (args.m + even - 1) / even;
    row_blocks_ = (args.m + block_ - 1) / block_;
  }

  void run() {
    backend::Workspace::Scope scope(context_.workspace);
    const std::int64_t workers = context_.pool.size(), parts = tile_.workers;
    auto* rows = context_.workspace.alloc<std::uint8_t>(static_cast<std::size_t>(args_.m * stride_));
    context_.pool.parallel_for(args_.m, [&](std::int64_t r, int) {
      prepare_row(*decode_.kernel, matrix_, args_.x + r * args_.ldx, args_.in_exact, rows + r * stride_);
    });
    // A band that is shared has outputs of its own, any other those of its worker.
    const std::int64_t units = std::int64_t{bands_} * row_blocks_;
    const std::int64_t floats = std::int64_t{block_} * kBandWidth;
    auto* outputs = context_.workspace.alloc<float>(static_cast<std::size_t>((parts > 1 ? units : workers) * floats));
    auto* done = context_.workspace.alloc<std::uint32_t>(static_cast<std::size_t>(units));
    std::fill_n(done, units, 0);
    const std::size_t scratch_size = decode_.kernel->scratch_bytes;
    auto* scratch = context_.workspace.alloc<std::uint8_t>(static_cast<std::size_t>(workers) * scratch_size);
    context_.pool.parallel_for(units * parts, [&](std::int64_t task, int worker) {
      const std::int64_t unit = task / parts;
      const PreparedRows block = block_of(unit, rows);
      float* y = outputs + (parts > 1 ? unit : worker) * floats;
      multiply(task, block, y, scratch + static_cast<std::size_t>(worker) * scratch_size);
      const std::atomic_ref ended(done[unit]);  // the last part sees what the others wrote
      if (parts == 1 || ended.fetch_add(1, std::memory_order_acq_rel) + 1 == parts) finish(unit, block.count, y);
    });
  }

 private:
  // Units are the blocks of rows of a band, one band after the other; tasks the parts of units.
  BandPart part_of(std::int64_t task) const {
    const int parts = tile_.workers;
    return part_of_band(static_cast<int>(task / parts / row_blocks_), static_cast<int>(task % parts), parts);
  }
  int first_row(std::int64_t unit) const { return static_cast<int>(unit % row_blocks_) * block_; }
  PreparedRows block_of(std::int64_t unit, const std::uint8_t* rows) const {
    const int first = first_row(unit);
    return {rows + first * stride_, stride_, std::min(block_, args_.m - first)};
  }

  void multiply(std::int64_t task, const PreparedRows& rows, float* y, std::uint8_t* scratch) const {
    const std::int64_t following = task + context_.pool.size();  // tasks are taken in order
    multiply_part(decode_, {matrix_, part_of(task), &matrix_, part_of(following)}, rows, y, scratch);
  }

  void finish(std::int64_t unit, int m, float* y) const {
    const int band = static_cast<int>(unit / row_blocks_);
    finish_band(*decode_.kernel, matrix_, band, m, y);
    const int begin = band * kBandWidth;
    const int count = std::min(kBandWidth, args_.out_exact - begin);
    for (int r = 0; r < m; ++r) {
      std::copy_n(y + r * kBandWidth, count, args_.y + (first_row(unit) + r) * args_.ldy + begin);
    }
  }

  SharedDecode decode_;
  const TrellisLinearArgs& args_;
  const TrellisMatrix& matrix_;
  const Tile& tile_;
  KernelContext& context_;
  int bands_, row_blocks_ = 0, block_ = 0;
  std::int64_t stride_;
};

}  // namespace

template <const Tier& kTier>
void trellis_linear(const TrellisLinearArgs& args, const Tile& tile, KernelContext& context) {
  check_tile(tile, "trellis_linear");
  if (args.m <= 0) return;
  check_domain(kTier, *args.matrix, "trellis_linear");
  LinearDriver(kTier, args, tile, context).run();
}

#define FAIRWAY_TIER(name, single, few_rows, few, panel, wide, coarse_panel, coarse_wide) \
  template void trellis_linear<kTier##name>(const TrellisLinearArgs&, const Tile&, KernelContext&);
#include "kernels/trellis_band/tiers.inc"
#undef FAIRWAY_TIER

}  // namespace fairway::kernels
