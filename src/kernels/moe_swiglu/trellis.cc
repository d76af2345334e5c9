// The trellis rows of moe_swiglu: the driver over the band kernels of each instruction set.
#include <algorithm>
#include <tuple>

#include "kernels/moe_swiglu/generic.h"
#include "kernels/moe_swiglu/rows.h"

namespace fairway::kernels {
namespace {

// Gate and up have the same input sizes; if they share their input scales too, one prepared copy of x serves both.
bool same_input(const TrellisMatrix& a, const TrellisMatrix& b) {
  return a.in == b.in && a.suh == b.suh;
}

struct TrellisPolicy {
  const Tier& tier;
  Sharing sharing;
  const Tile& tile;

  // Gate and up may be read coarsely: down averages their errors over the intermediate size. Those of down would reach
  // every later layer: on the bundled model they move the log-probabilities of a text twice as far as both others.
  struct Decode {
    SharedDecode in, down;  // of gate and up, and of down
  };
  Decode decode(const ExpertGroup& group) const {
    return {share_decode(tier, sharing, group.m, tile.n, true), share_decode(tier, sharing, group.m, tile.n, false)};
  }

  std::size_t scratch_bytes() const { return kernels::scratch_bytes(tier); }
  std::size_t gate_row_bytes(const Decode& d, const ExpertWeights& e) const {
    return d.in.kernel->row_bytes(e.gate.trellis().in);
  }
  std::size_t up_row_bytes(const Decode& d, const ExpertWeights& e) const {
    return same_input(e.gate.trellis(), e.up.trellis()) ? 0 : d.in.kernel->row_bytes(e.up.trellis().in);
  }
  std::size_t hidden_row_bytes(const Decode& d, const ExpertWeights& e) const {
    return d.down.kernel->row_bytes(e.down.trellis().in);
  }
  int intermediate_bands(const ExpertWeights& e) const { return band_count(e.down.trellis().in); }

  InputForm input_form(const Decode& d, const ExpertWeights& e) const {
    const TrellisMatrix& gate = e.gate.trellis();
    return {d.in.kernel->store_block, gate.suh, e.up.trellis().suh, gate.in};
  }
  void prepare(const Decode& d, const ExpertWeights& e, const float* x, int hidden, std::uint8_t* gate_row,
               std::uint8_t* up_row) const {
    prepare_row(*d.in.kernel, e.gate.trellis(), x, hidden, gate_row);
    if (up_row != nullptr) prepare_row(*d.in.kernel, e.up.trellis(), x, hidden, up_row);
  }

  // Bands beyond the outputs of the matrix exist only if down is padded further; finish_hidden writes zeros there.
  void part(const SharedDecode& decode_as, const LinearWeights& weights, const BandPart& at, const TrellisMatrix* next,
            const BandPart& next_at, const PreparedRows& rows, float* y, std::uint8_t* scratch) const {
    if (at.band >= band_count(weights.out)) return;
    multiply_part(decode_as, {weights.trellis(), at, next, next_at}, rows, y, scratch);
  }
  void gate_part(const Decode& d, const ExpertPart& at, const PreparedRows& rows, float* y,
                 std::uint8_t* scratch) const {
    part(d.in, at.expert->gate, at.part, &at.expert->up.trellis(), at.part, rows, y, scratch);
  }
  void up_part(const Decode& d, const ExpertPart& at, const ExpertPart& next, const PreparedRows& rows, float* y,
               std::uint8_t* scratch) const {
    const TrellisMatrix* after = next.expert == nullptr ? nullptr : &next.expert->gate.trellis();
    part(d.in, at.expert->up, at.part, after, next.part, rows, y, scratch);
  }
  void down_part(const Decode& d, const ExpertPart& at, const ExpertPart& next, const PreparedRows& rows, float* y,
                 std::uint8_t* scratch) const {
    const TrellisMatrix* after = next.expert == nullptr ? nullptr : &next.expert->down.trellis();
    part(d.down, at.expert->down, at.part, after, next.part, rows, y, scratch);
  }

  // Columns of the padding may hold noise in the stored matrix: they count as zero.
  void finish_hidden(const Decode& d, const ExpertWeights& e, int band, float* gate, float* up, int m,
                     std::uint8_t* rows, std::int64_t stride) const {
    const TrellisMatrix& down = e.down.trellis();
    const int begin = band * kBandWidth;
    const int count = std::clamp(e.gate.out - begin, 0, kBandWidth);
    if (count > 0) {
      finish_band(*d.in.kernel, e.gate.trellis(), band, m, gate);
      finish_band(*d.in.kernel, e.up.trellis(), band, m, up);
    }
    alignas(64) float product[kBandWidth];
    alignas(64) float block[kBandWidth];
    for (int r = 0; r < m; ++r) {
      if (count > 0) d.down.kernel->ops->swiglu(gate + r * kBandWidth, up + r * kBandWidth, count, product);
      d.down.kernel->ops->transform_input(product, count, down.suh + begin, block);
      d.down.kernel->store_block(block, rows + r * stride, down.in, band);
    }
  }
  void finish_output(const Decode& d, const ExpertWeights& e, int band, int m, float* y) const {
    finish_band(*d.down.kernel, e.down.trellis(), band, m, y);
  }
};

void run(const Tier& tier, Sharing sharing, const MoeSwigluArgs& args, const Tile& tile, KernelContext& context) {
  check_tile(tile, "moe_swiglu");
  for (const ExpertGroup& g : args.groups) {
    if (g.m <= 0) continue;
    for (const LinearWeights* weights : {&g.expert->gate, &g.expert->up, &g.expert->down}) {
      check_domain(tier, weights->trellis(), "moe_swiglu");
    }
  }
  const TrellisPolicy policy{tier, sharing, tile};
  MoeDriver<TrellisPolicy>(args, tile, context, policy).run();
}

// The groups of a call by bit tuple, those of many rows first, so that the last tasks are short.
MoeSwigluArgs sorted_by_tuple(const MoeSwigluArgs& args, KernelContext& context) {
  auto* groups = context.workspace.alloc<ExpertGroup>(args.groups.size());
  const std::span<ExpertGroup> sorted(groups, args.groups.size());
  std::copy(args.groups.begin(), args.groups.end(), groups);
  const auto key = [](const ExpertGroup& g) { return std::tuple(g.expert->bits(), -g.m, g.slot_begin); };
  std::sort(sorted.begin(), sorted.end(), [&](const auto& a, const auto& b) { return key(a) < key(b); });
  MoeSwigluArgs result = args;
  result.groups = sorted;
  return result;
}

}  // namespace

template <const Tier& kTier>
void moe_decode(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context) {
  run(kTier, Sharing::kNone, args, tile, context);
}
template <const Tier& kTier>
void moe_few(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context) {
  run(kTier, Sharing::kFew, args, tile, context);
}
template <const Tier& kTier>
void moe_panel(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context) {
  run(kTier, Sharing::kPanel, args, tile, context);
}
template <const Tier& kTier>
void moe_grouped(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context) {
  backend::Workspace::Scope scope(context.workspace);
  run(kTier, Sharing::kBySize, sorted_by_tuple(args, context), tile, context);
}

#define FAIRWAY_TIER(name, single, few_rows, few, panel, wide, coarse_panel, coarse_wide)   \
  template void moe_decode<kTier##name>(const MoeSwigluArgs&, const Tile&, KernelContext&); \
  template void moe_few<kTier##name>(const MoeSwigluArgs&, const Tile&, KernelContext&);    \
  template void moe_panel<kTier##name>(const MoeSwigluArgs&, const Tile&, KernelContext&);  \
  template void moe_grouped<kTier##name>(const MoeSwigluArgs&, const Tile&, KernelContext&);
#include "kernels/trellis_band/tiers.inc"
#undef FAIRWAY_TIER

}  // namespace fairway::kernels
