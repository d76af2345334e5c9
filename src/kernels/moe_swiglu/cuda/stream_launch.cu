// The launches of the stream kernel: shapes, shared memory, scratch, calls of many tokens in several launches.
#include <algorithm>
#include <cstdint>

#include "kernels/common/cuda/gpu_features.h"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/moe_swiglu/cuda/stream_kernel.cuh"
#include "kernels/moe_swiglu/cuda/stream_launch.cuh"
#include "kernels/moe_swiglu/cuda/stream_one.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kInputPadBytes = 32;
constexpr int kMostTeams = 2;  // of a CTA, in all shapes

// Of a call, from which on an expert is decoded for 8 at a time: measured at the geometry of GLM-4.7-Flash.
constexpr int kTokensForEight = 20;

int slots_per_token(const MoeLayer& layer) {
  return layer.top_k + layer.shared;
}
// Of one launch.
int most_tokens(const MoeLayer& layer) {
  return kStreamSlots / std::max(slots_per_token(layer), 1);
}

// Whether it can make its inputs from what is in front of the norm.
bool norm_serves(const MoeLayer& layer, const MoeNorm& norm) {
  const auto aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
  return norm.x != nullptr && aligned(norm.x) && aligned(norm.weight) && norm.ldx % 4 == 0 && norm.n % 4 == 0 &&
         norm.n <= layer.hidden;
}

struct PieceCounts {
  std::size_t gate_up, down;
};
// Upper bounds of where a piece is stored, see Piece.
PieceCounts most_pieces(const MoeLayer& layer, int tokens, int ctas = kMostStreamCtas) {
  const int routed = tokens * layer.top_k;
  constexpr int kFewest = StreamWide::kTokens;  // of all shapes
  const int segments =
      std::min(routed, layer.routed + routed / kFewest) + layer.shared * ((tokens + kFewest - 1) / kFewest);
  return {static_cast<std::size_t>(segments * (layer.max_intermediate / kBand) + ctas),
          static_cast<std::size_t>(segments * (layer.hidden / kBand + 1) + kMostTeams * ctas)};
}

std::size_t gate_up_bytes(const PieceCounts& pieces) {
  return pieces.gate_up * 2 * kSegmentTokens * kBand * sizeof(float);
}

// The emulator runs the CTAs of a launch at the same time only if the launch says so.
#ifdef FAIRWAY_CUDA_EMULATED
constexpr bool kTogether = true;
#else
constexpr bool kTogether = false;
#endif

// A launch whose CTAs wait for each other: as many as fit on the device at once. It is not a cooperative one. That
// begins only when there is room for all of its CTAs, so it never runs beside the end of the kernel before it, and
// what its CTAs can do before they wait for that kernel takes time: 2 us. They all become resident without it: what
// runs before them on the stream waits for nobody, so it ends, and the kernel after them starts only when all of them
// have let it. On other streams there may be work that ends by itself, but no launch of this kind.
template <class Shape>
cudaError_t launch_waiting(const StreamArgs& args, int grid, int shared_bytes, cudaStream_t stream) {
  LaunchShape shape{dim3(static_cast<unsigned>(grid)), Shape::kThreads, shared_bytes};
  shape.together = args.call.probe.together || kTogether;
  shape.chained = args.call.probe.chained;
  return launch(stream_kernel<Shape>, shape, stream, args);
}

struct ShapePlan {
  int ctas;    // of an SM
  int stages;  // of each team; below 1: the layer is too wide
  int input_stride, stage_bytes;
  int fixed;  // bytes beside the ring
};

template <class Shape>
ShapePlan plan_shape(const MoeLayer& layer) {
  ShapePlan plan{Shape::kCtas, 0, std::max(layer.hidden, layer.max_intermediate) + kInputPadBytes,
                 coded_block_bytes(layer.widths.largest()), 0};
  const int matrices = layer.common_suh != nullptr ? 1 : 2, shared_bytes = gpu_features().shared_bytes;
  plan.fixed = static_cast<int>(sizeof(StreamShared<Shape>)) + matrices * 2 * Shape::kTokens * plan.input_stride;
  const auto stages_for = [&](int n) {
    return std::min(kMaxStages, (shared_bytes / n - kSharedPerCta - plan.fixed) / (Shape::kTeams * plan.stage_bytes));
  };
  while (plan.ctas > 1 && stages_for(plan.ctas) < kFewStages) --plan.ctas;
  plan.stages = stages_for(plan.ctas);
  return plan;
}

// Whether a call's sums have room where they carry numbers.
template <class Shape>
bool linked_call(const MoeLayer& layer, int tokens, int grid) {
  const PieceCounts pieces = most_pieces(layer, tokens, grid);
  return Shape::kLinks && tokens <= kLinkedTokens && pieces.gate_up <= kLinkedGateUp && pieces.down <= kLinkedDown;
}

template <class Shape>
cudaError_t run_shape(StreamArgs args, const MoeCall& call, int chunk, cudaStream_t stream) {
  const MoeLayer& layer = args.layer;
  const ShapePlan plan = plan_shape<Shape>(layer);
  if (plan.stages < 1) return cudaErrorInvalidValue;  // the layer is too wide for this path
  args.input_stride = plan.input_stride;
  args.stage_bytes = plan.stage_bytes;
  args.ring_stages = plan.stages;
  // Without this the driver may divide an SM's memory so that fewer CTAs fit than the launch needs.
  const cudaError_t set = cudaFuncSetAttribute(reinterpret_cast<const void*>(stream_kernel<Shape>),
                                               cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  if (set != cudaSuccess) return set;
  const int bytes = Shape::kTeams * args.ring_stages * args.stage_bytes + plan.fixed;
  int resident = 0;  // CTAs of an SM: all of a launch have to be
  const cudaError_t asked = ctas_at_once(stream_kernel<Shape>, Shape::kThreads, bytes, resident);
  if (asked != cudaSuccess) return asked;
  if (resident < 1) return cudaErrorInvalidValue;
  const int grid = std::min(std::min(plan.ctas, resident) * sm_count(), kMostStreamCtas);
  args.linked = linked_call<Shape>(layer, std::min(call.tokens, chunk), grid);
  for (int begin = 0; begin < call.tokens; begin += chunk) {
    args.call = call;
    args.call.tokens = std::min(chunk, call.tokens - begin);
    args.call.x += begin * call.ldx;
    args.call.y += begin * call.ldy;
    args.call.ids += static_cast<long long>(begin) * layer.top_k;
    args.call.weights += static_cast<long long>(begin) * layer.top_k;
    const cudaError_t status = launch_waiting<Shape>(args, grid, bytes, stream);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

// The kernel for one token: how much of a layer a CTA may have; no units: it does not serve.
struct OnePlan {
  int units = 0, grid = 0, bytes = 0, columns = 1;
  OneStages stages{};
};

// Columns of tiles that a warp has of a unit: two, unless some warp would then have more tiles than with one.
int columns_of(int units) {
  const auto most_tiles = [units](int columns) {
    const auto visits = [units](int groups) { return (units + groups - 1) / groups; };
    return columns * kBandTiles * (visits(columns) + visits(2 * columns));
  };
  return most_tiles(2) <= most_tiles(1) ? 2 : 1;
}

OnePlan plan_one(const MoeLayer& layer, int tokens) {
  if (tokens != 1) return {};
  const int grid = std::min(sm_count(), kMostStreamCtas), slots = slots_per_token(layer), blocks = layer.hidden / kBand;
  const long long items = static_cast<long long>(slots) * (layer.max_intermediate / kBand), units = items * blocks;
  const long long own = (units + grid - 1) / grid;
  const GpuFeatures features = gpu_features();
  if (!features.clusters || own < 1 || own > std::min(blocks, kMostOneUnits)) return {};
  if (2 * (items + grid) > kMostOneParts || units > kMostOneLayerUnits) return {};
  const int gate = coded_block_bytes(layer.widths.gate), both = gate + coded_block_bytes(layer.widths.up);
  const int down = coded_block_bytes(layer.widths.down);
  const int fixed = static_cast<int>(sizeof(OneShared)) + (blocks + kOnePieces) * kOneBlockBytes;
  const int n = static_cast<int>(own), room = features.shared_bytes - kSharedPerCta - fixed;
  if (n * std::max(both, down) > room) return {};
  OnePlan plan{n, grid, 0, columns_of(n), {}};
  OneStages& stages = plan.stages;
  stages.bytes = std::min(n * (both + down), room / kBand * kBand);
  stages = {{(n - 1) * both, (n - 1) * both + gate, stages.bytes - down}, {-both, -both, -down}, stages.bytes, 0, 0};
  stages.own_down = std::min(n, (stages.bytes - n * both) / down);
  // The first byte of the last unit of down is in one of gate and up.
  if (stages.own_down < n) stages.reused = n - (stages.bytes - n * down) / both;
  plan.bytes = stages.bytes + fixed;
  return plan;
}

cudaError_t run_one(StreamArgs args, const OnePlan& plan, cudaStream_t stream) {
  args.ring_stages = plan.units;
  args.one = plan.stages;
  const bool two = plan.columns == 2;
  const auto kernel = two ? stream_one_kernel<2> : stream_one_kernel<1>;
  const cudaError_t set =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  if (set != cudaSuccess) return set;
  LaunchShape shape{dim3(static_cast<unsigned>(plan.grid)), two ? OneGroup<2>::kThreads : OneGroup<1>::kThreads,
                    plan.bytes};
  shape.together = args.call.probe.together || kTogether;
  shape.chained = args.call.probe.chained;
  return launch(kernel, shape, stream, args);
}

// Stages of a ring of one of the two shapes; 0 if tables have no room for the layer's experts.
int stages_of(const MoeLayer& layer, bool wide) {
  if (layer.routed + layer.shared > kStreamExperts) return 0;
  return (wide ? plan_shape<StreamWide>(layer) : plan_shape<StreamNarrow>(layer)).stages;
}

}  // namespace

int stream_tokens(const MoeLayer& layer, bool wide) {
  return stages_of(layer, wide) >= kFewStages ? most_tokens(layer) : 0;
}

bool stream_starts_early(const MoeLayer& layer, int tokens) {
  return layer.hidden <= kMostEarlyBlocks * kBand && layer.common_suh != nullptr && tokens <= StreamEarly::kTokens &&
         tokens * slots_per_token(layer) <= kMostEarlySlots;
}

OneTokenShare one_token_share(const MoeLayer& layer) {
  if (!stream_starts_early(layer, 1)) return {};
  const OnePlan plan = plan_one(layer, 1);
  return {plan.units, plan.columns, plan.stages.reused};
}

bool stream_polls_row(const MoeLayer& layer, int tokens, const MoeNorm& norm) {
  return norm_serves(layer, norm) && plan_one(layer, tokens).units > 0;
}

bool stream_fits(const MoeLayer& layer, bool wide) {
  return stages_of(layer, wide) >= 1 && most_tokens(layer) >= 1;
}

std::size_t stream_scratch_bytes(const MoeLayer& layer, int tokens) {
  const PieceCounts pieces = most_pieces(layer, std::min(tokens, most_tokens(layer)));
  return gate_up_bytes(pieces) + pieces.down * kSegmentTokens * kBand * sizeof(float);
}

cudaError_t run_stream(const MoeLayer& layer, const MoeCall& call, bool wide, void* scratch, cudaStream_t stream) {
  const int chunk = most_tokens(layer);
  if (chunk < 1 || layer.routed + layer.shared > kStreamExperts) return cudaErrorInvalidValue;
  StreamArgs args{};
  args.layer = layer;
  args.slots_per_token = slots_per_token(layer);
  args.gate_up = static_cast<float*>(scratch);
  args.down = args.gate_up + gate_up_bytes(most_pieces(layer, std::min(call.tokens, chunk))) / sizeof(float);
  if (!wide) return run_shape<StreamNarrow>(args, call, chunk, stream);
  if (stream_starts_early(layer, call.tokens)) {
    MoeCall early = call;
    if (!norm_serves(layer, call.norm)) early.norm = {};
    const OnePlan one = plan_one(layer, call.tokens);
    if (one.units > 0) {
      args.call = early;
      return run_one(args, one, stream);
    }
    return run_shape<StreamEarly>(args, early, chunk, stream);
  }
  const bool eight = call.tokens >= kTokensForEight && plan_shape<StreamWide8>(layer).stages >= kFewStages;
  return eight ? run_shape<StreamWide8>(args, call, chunk, stream) : run_shape<StreamWide>(args, call, chunk, stream);
}

}  // namespace fairway::kernels::cuda
