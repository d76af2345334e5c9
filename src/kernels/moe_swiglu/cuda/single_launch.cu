// The launch of the single kernel: shared memory, scratch.
#include <algorithm>

#include "kernels/moe_swiglu/cuda/launch_waiting.cuh"
#include "kernels/moe_swiglu/cuda/single_kernel.cuh"
#include "kernels/moe_swiglu/cuda/single_launch.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kSharedBytes = 227 * 1024;  // Hopper: most shared memory of a CTA
// Of a group, at most: with more, the first blocks would share the memory's bandwidth with those that come last.
constexpr int kSingleStages = 3;
constexpr int kFewestStages = 2;  // of a group: a stage is filled again a block after it was used

int single_grid() {
  return std::min(sm_count(), kMostSingleCtas);
}
int slots_of(const MoeLayer& layer) {
  return layer.top_k + layer.shared;
}
int most_units(const MoeLayer& layer) {
  return slots_of(layer) * (layer.max_intermediate / kBand) * (layer.hidden / kBand);
}

struct Plan {
  SingleArgs args;
  bool fits;
};

Plan plan_single(const MoeLayer& layer) {
  Plan plan{};
  SingleArgs& args = plan.args;
  const int slots = slots_of(layer), hidden_blocks = layer.hidden / kBand, grid = single_grid();
  if (slots < 1 || slots > kSingleSlots) return plan;
  const int units =
      std::max((most_units(layer) + grid - 1) / grid, (hidden_blocks + kSingleSpan - 2) / (kSingleSpan - 1));
  const int pieces = std::min(units, (units - 1) / hidden_blocks + 2);
  args.layer = layer;
  args.slots = slots;
  args.hidden_blocks = Divisor(hidden_blocks);
  args.parts = Divisor(kSingleWarps / slots);
  args.matrices = layer.common_suh != nullptr ? 1 : 2;
  args.digit_blocks = units * args.matrices;
  args.stage_bytes = 2 * kBand * kBandTiles * layer.max_bits;
  // Offsets without the rings, which come first.
  int at = 0;
  const auto take = [&](int bytes) {
    const int begin = at;
    at += (bytes + 15) / 16 * 16;
    return begin;
  };
  SingleLayout& layout = args.at;
  layout.head = take(sizeof(SingleShared));
  layout.facts = take((layer.routed + layer.shared) * static_cast<int>(sizeof(int)));
  layout.pieces = take(pieces * static_cast<int>(sizeof(SinglePiece)));
  layout.places = take(units * static_cast<int>(sizeof(int)));
  layout.blocks = take(3 * units * static_cast<int>(sizeof(SingleWork)));
  layout.scales = take((args.digit_blocks + pieces) * static_cast<int>(sizeof(float2)));
  layout.sums = take(pieces * 4 * kBand * static_cast<int>(sizeof(float)));
  layout.down_digits = take(pieces * kDigitBytes);
  layout.row = layout.arrived = at;
  layout.digits = at + layer.hidden * static_cast<int>(sizeof(float));
  const int before = layer.hidden * static_cast<int>(sizeof(float)) + args.digit_blocks * kDigitBytes;
  take(std::max(before, 2 * kSingleSpan * kSinglePair * static_cast<int>(sizeof(float))));
  const int of_stage = kSingleGroups * args.stage_bytes;
  const int blocks = (3 * units + kSingleGroups - 1) / kSingleGroups;  // of a group
  args.ring_stages =
      std::min({(kSharedBytes - at) / of_stage, std::max(blocks, kFewestStages), kMaxStages, kSingleStages});
  plan.fits = args.ring_stages >= std::min(blocks, kFewestStages + 1) && args.ring_stages >= kFewestStages;
  const int rings = std::max(args.ring_stages, 0) * of_stage;
  for (int* offset : {&layout.head, &layout.facts, &layout.pieces, &layout.places, &layout.blocks, &layout.scales,
                      &layout.sums, &layout.row, &layout.digits, &layout.arrived, &layout.down_digits}) {
    *offset += rings;
  }
  layout.bytes = at + rings;
  return plan;
}

}  // namespace

bool single_fits(const MoeLayer& layer) {
  return plan_single(layer).fits;
}

std::size_t single_scratch_bytes(const MoeLayer& layer) {
  return static_cast<std::size_t>(most_units(layer)) * kBand * sizeof(float);
}

cudaError_t run_single(const MoeLayer& layer, const MoeCall& call, void* scratch, cudaStream_t stream) {
  SingleArgs args = plan_single(layer).args;
  args.call = call;
  args.partial = static_cast<float*>(scratch);
  return launch_waiting(single_kernel, {dim3(static_cast<unsigned>(single_grid())), kSingleThreads, args.at.bytes},
                        args, stream);
}

}  // namespace fairway::kernels::cuda
