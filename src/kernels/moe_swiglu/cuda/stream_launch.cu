// The launches of the stream kernel: shapes, shared memory, scratch, calls of many tokens in several launches.
#include "kernels/moe_swiglu/cuda/stream_launch.h"

#include <algorithm>

#include "kernels/moe_swiglu/cuda/launch.cuh"
#include "kernels/moe_swiglu/cuda/stream_kernel.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kMostCtas = 2;  // of an SM

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
  const int ctas = kMostCtas * sm_count();
  return {static_cast<std::size_t>(segments * (layer.max_intermediate / kBand) + ctas),
          static_cast<std::size_t>(segments * (layer.hidden / kBand) + ctas)};
}

std::size_t gate_up_bytes(const PieceCounts& pieces) {
  return pieces.gate_up * 2 * kSegmentTokens * kBand * sizeof(float);
}

}  // namespace

std::size_t stream_scratch_bytes(const MoeLayer& layer, int tokens) {
  const PieceCounts pieces = most_pieces(layer, std::min(tokens, most_tokens(layer)));
  return gate_up_bytes(pieces) + pieces.down * kSegmentTokens * kBand * sizeof(float);
}

cudaError_t run_stream(const MoeLayer& layer, const MoeCall& call, int ctas, unsigned* arrivals, void* scratch,
                       cudaStream_t stream) {
  const int chunk = most_tokens(layer);
  if (chunk < 1) return cudaErrorInvalidValue;
  StreamArgs args{};
  args.layer = layer;
  args.slots_per_token = slots_per_token(layer);
  args.arrivals = arrivals;
  args.gate_up = static_cast<float*>(scratch);
  args.down = args.gate_up + gate_up_bytes(most_pieces(layer, std::min(call.tokens, chunk))) / sizeof(float);
  args.input_stride = std::max(layer.hidden, layer.max_intermediate) + kInputPadBytes;
  args.stage_bytes = 2 * kBand * kBandTiles * layer.max_bits;
  const int matrices = layer.common_suh != nullptr ? 1 : 2;
  const int fixed = static_cast<int>(sizeof(StreamShared)) + matrices * 2 * kSegmentTokens * args.input_stride;
  const auto stages_for = [&](int n) {
    return std::min(kMaxStages, (kSharedPerSm / n - kSharedPerCta - fixed) / args.stage_bytes) / kStreamTeams *
           kStreamTeams;
  };
  while (ctas > 1 && stages_for(ctas) < 2 * kStreamTeams) --ctas;
  args.ring_stages = stages_for(ctas);
  if (args.ring_stages < kStreamTeams) return cudaErrorInvalidValue;  // the layer is too wide for this path
  const auto kernel = ctas == 1 ? stream_kernel<1> : stream_kernel<2>;
  for (int begin = 0; begin < call.tokens; begin += chunk) {
    args.call = call;
    args.call.tokens = std::min(chunk, call.tokens - begin);
    args.call.x += begin * call.ldx;
    args.call.y += begin * call.ldy;
    args.call.ids += static_cast<long long>(begin) * layer.top_k;
    args.call.weights += static_cast<long long>(begin) * layer.top_k;
    const cudaError_t status =
        launch(kernel, ctas * sm_count(), kStreamThreads, args.ring_stages * args.stage_bytes + fixed, stream, args);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace fairway::kernels::cuda
