// The launches of the stream kernel: shapes, shared memory, scratch, calls of many tokens in several launches.
#include <algorithm>

#include "kernels/moe_swiglu/cuda/launch.cuh"
#include "kernels/moe_swiglu/cuda/stream_kernel.cuh"
#include "kernels/moe_swiglu/cuda/stream_launch.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kFewStages = 4;

int slots_per_token(const MoeLayer& layer) {
  return layer.top_k + layer.shared;
}
// Of one launch.
int most_tokens(const MoeLayer& layer) {
  return kStreamSlots / std::max(slots_per_token(layer), 1);
}

struct PieceCounts {
  std::size_t gate_up, down;
};
// Upper bounds of item + CTA.
PieceCounts most_pieces(const MoeLayer& layer, int tokens) {
  const int routed = tokens * layer.top_k;
  const int segments = std::min(routed, layer.routed + routed / kSegmentTokens) +
                       layer.shared * ((tokens + kSegmentTokens - 1) / kSegmentTokens);
  const int ctas = std::max(StreamWide::kCtas, StreamNarrow::kCtas) * sm_count();
  return {static_cast<std::size_t>(segments * (layer.max_intermediate / kBand) + ctas),
          static_cast<std::size_t>(segments * (layer.hidden / kBand) + ctas)};
}

std::size_t gate_up_bytes(const PieceCounts& pieces) {
  return pieces.gate_up * 2 * kSegmentTokens * kBand * sizeof(float);
}

template <class Shape>
cudaError_t run_shape(StreamArgs args, const MoeCall& call, int chunk, cudaStream_t stream) {
  const MoeLayer& layer = args.layer;
  args.input_stride = std::max(layer.hidden, layer.max_intermediate) + kInputPadBytes;
  args.stage_bytes = 2 * kBand * kBandTiles * layer.max_bits;
  const int matrices = layer.common_suh != nullptr ? 1 : 2;
  const int fixed = static_cast<int>(sizeof(StreamShared)) + matrices * 2 * kSegmentTokens * args.input_stride;
  int ctas = Shape::kCtas;
  const auto stages_for = [&](int n) {
    return std::min(kMaxStages, (kSharedPerSm / n - kSharedPerCta - fixed) / args.stage_bytes) / Shape::kTeams *
           Shape::kTeams;
  };
  while (ctas > 1 && stages_for(ctas) < kFewStages) --ctas;
  args.ring_stages = stages_for(ctas);
  if (args.ring_stages < Shape::kTeams) return cudaErrorInvalidValue;  // the layer is too wide for this path
  // Without this the driver may leave room for fewer CTAs than the kernel waits for.
  const cudaError_t set = cudaFuncSetAttribute(reinterpret_cast<const void*>(stream_kernel<Shape>),
                                               cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  if (set != cudaSuccess) return set;
  for (int begin = 0; begin < call.tokens; begin += chunk) {
    args.call = call;
    args.call.tokens = std::min(chunk, call.tokens - begin);
    args.call.x += begin * call.ldx;
    args.call.y += begin * call.ldy;
    args.call.ids += static_cast<long long>(begin) * layer.top_k;
    args.call.weights += static_cast<long long>(begin) * layer.top_k;
    const cudaError_t status = launch(stream_kernel<Shape>, ctas * sm_count(), Shape::kThreads,
                                      args.ring_stages * args.stage_bytes + fixed, stream, args);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace

std::size_t stream_scratch_bytes(const MoeLayer& layer, int tokens) {
  const PieceCounts pieces = most_pieces(layer, std::min(tokens, most_tokens(layer)));
  return gate_up_bytes(pieces) + pieces.down * kSegmentTokens * kBand * sizeof(float);
}

cudaError_t run_stream(const MoeLayer& layer, const MoeCall& call, bool wide, unsigned* arrivals, void* scratch,
                       cudaStream_t stream) {
  const int chunk = most_tokens(layer);
  if (chunk < 1) return cudaErrorInvalidValue;
  StreamArgs args{};
  args.layer = layer;
  args.slots_per_token = slots_per_token(layer);
  args.arrivals = arrivals;
  args.gate_up = static_cast<float*>(scratch);
  args.down = args.gate_up + gate_up_bytes(most_pieces(layer, std::min(call.tokens, chunk))) / sizeof(float);
  return wide ? run_shape<StreamWide>(args, call, chunk, stream) : run_shape<StreamNarrow>(args, call, chunk, stream);
}

}  // namespace fairway::kernels::cuda
