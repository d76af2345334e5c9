// The launches of an expert layer: shapes, shared memory, scratch.
#include <algorithm>

#include "kernels/moe_swiglu/cuda/band_kernels.cuh"
#include "kernels/moe_swiglu/cuda/group.cuh"
#include "kernels/moe_swiglu/cuda/launch.cuh"
#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"
#include "kernels/moe_swiglu/cuda/stream_launch.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kMostStages = 16;
constexpr int kFewStages = 4;  // with fewer, one CTA on an SM with a deeper ring is the better use of it

struct PathFacts {
  const char* name;
  bool integer;
  int tokens;
};
constexpr PathFacts kPaths[kMoePaths] = {{"int_stream", true, 4}, {"int_stream3", true, 4}, {"int_4", true, 4},
                                         {"int_8", true, 8},      {"half_8", false, 8},     {"half_16", false, 16},
                                         {"half_32", false, 32},  {"half_64", false, 64}};

const PathFacts& facts(MoePath path) {
  return kPaths[static_cast<int>(path)];
}

BandKernel kernel_of(MoePath path) {
  const PathFacts& f = facts(path);
  if (f.integer) return int_band_kernel(f.tokens);
  return f.tokens <= 16 ? half_band_kernel(f.tokens) : half_band_kernel_many(f.tokens);
}

long long max_segments(const MoeLayer& layer, int tokens, int chunk) {
  const long long routed = static_cast<long long>(tokens) * layer.top_k;
  return std::min<long long>(routed, layer.routed + routed / chunk) +
         static_cast<long long>(layer.shared) * ((tokens + chunk - 1) / chunk);
}

// Scratch, laid out one after the other.
struct Scratch {
  unsigned* arrivals;
  void* stream;  // all that follows, for the stream paths
  int* segment_count;
  Segment* segments;
  int* order;
  __half* rows;
  __half* hidden;
  float* slot_out;
  std::size_t bytes;
};

Scratch lay_out(const MoeLayer& layer, int tokens, void* base) {
  std::size_t at = 0;
  const auto take = [&](std::size_t bytes) {
    const std::size_t begin = at;
    at += (bytes + 255) / 256 * 256;
    return static_cast<char*>(base) + begin;
  };
  const std::size_t slots = static_cast<std::size_t>(tokens) * static_cast<std::size_t>(layer.top_k + layer.shared);
  const std::size_t rows = layer.common_suh != nullptr ? static_cast<std::size_t>(tokens) : 2 * slots;
  Scratch s{};
  s.arrivals = reinterpret_cast<unsigned*>(take(kMoeClearedBytes));
  s.stream = take(0);
  s.segment_count = reinterpret_cast<int*>(take(sizeof(int)));
  s.segments = reinterpret_cast<Segment*>(take(sizeof(Segment) * max_segments(layer, tokens, 4)));
  s.order = reinterpret_cast<int*>(take(sizeof(int) * slots));
  s.rows = reinterpret_cast<__half*>(take(sizeof(__half) * rows * layer.hidden));
  s.hidden = reinterpret_cast<__half*>(take(sizeof(__half) * slots * layer.max_intermediate));
  s.slot_out = reinterpret_cast<float*>(take(sizeof(float) * slots * layer.hidden));
  s.bytes = std::max(at, kMoeClearedBytes + (layer.all_mul1 ? stream_scratch_bytes(layer, tokens) : 0));
  return s;
}

// Fills in the ring and launches one phase over an upper bound of the segments.
cudaError_t launch_band(const BandKernel& kernel, BandArgs args, Phase phase, long long segments, cudaStream_t stream) {
  const MoeLayer& layer = args.layer;
  args.phase = phase;
  const bool gate_up = phase == Phase::kGateUp;
  const long long items = segments * ((gate_up ? layer.max_intermediate : layer.hidden) / kBand);
  args.input_stride = (gate_up ? layer.hidden : layer.max_intermediate) + kInputPadBytes;
  args.stage_bytes = 2048 * layer.max_bits + kernel.stage_token_bytes;
  const int fixed = kernel.shared_bytes + (kernel.integer ? 2 * kernel.tokens * args.input_stride : 0);
  int ctas = kernel.ctas;
  const auto stages_for = [&](int n) { return (kSharedPerSm / n - kSharedPerCta - fixed) / args.stage_bytes; };
  while (ctas > 1 && stages_for(ctas) < kFewStages) --ctas;
  args.ring_stages = std::min(stages_for(ctas), kMostStages);
  if (args.ring_stages < 1) return cudaErrorInvalidValue;  // the layer is too wide for this path
  const long long grid = std::min<long long>(items, static_cast<long long>(ctas) * sm_count());
  return launch(kernel.run, static_cast<int>(grid), kBandThreads, args.ring_stages * args.stage_bytes + fixed, stream,
                args);
}

cudaError_t run_grouped(const BandKernel& kernel, BandArgs args, const Scratch& scratch, cudaStream_t stream) {
  const MoeLayer& layer = args.layer;
  const long long segments = max_segments(layer, args.call.tokens, kernel.tokens);
  const GroupOutputs outputs{scratch.segment_count, scratch.segments, scratch.order, kernel.tokens};
  long long blocks = 1;
  if (!kernel.integer) {
    const long long rows =
        layer.common_suh != nullptr ? args.call.tokens : 2LL * args.call.tokens * args.slots_per_token;
    blocks += std::min<long long>((rows * (layer.hidden / kBand) + kPrepareWarps - 1) / kPrepareWarps, 2 * sm_count());
  }
  cudaError_t status =
      launch(prepare_kernel, static_cast<int>(blocks), kPrepareThreads,
             kPrepareWarps * layer.routed * static_cast<int>(sizeof(int)), stream, args, outputs, scratch.rows);
  if (status == cudaSuccess) status = launch_band(kernel, args, Phase::kGateUp, segments, stream);
  if (status == cudaSuccess) status = launch_band(kernel, args, Phase::kDown, segments, stream);
  if (status != cudaSuccess) return status;
  const long long quads = static_cast<long long>(args.call.tokens) * layer.hidden / 4;
  return launch(sum_slots_kernel, static_cast<int>((quads + 255) / 256), 256, 0, stream, args);
}

}  // namespace

const char* moe_path_name(MoePath path) {
  return facts(path).name;
}

bool moe_path_legal(const MoeLayer& layer, MoePath path) {
  return layer.all_mul1 || !facts(path).integer;
}

MoePath moe_default_path(const MoeLayer& layer, int tokens) {
  const double per_expert = layer.routed == 0 ? tokens : static_cast<double>(tokens) * layer.top_k / layer.routed;
  if (layer.all_mul1 && per_expert <= 2.5) return MoePath::kIntStream;
  if (per_expert <= 2.5) return MoePath::kHalf8;
  return per_expert <= 10 ? MoePath::kHalf16 : MoePath::kHalf32;
}

std::size_t moe_workspace_bytes(const MoeLayer& layer, int max_tokens) {
  return lay_out(layer, max_tokens, nullptr).bytes;
}

cudaError_t moe_workspace_clear(void* workspace, cudaStream_t stream) {
  return cudaMemsetAsync(workspace, 0, kMoeClearedBytes, stream);
}

cudaError_t moe_swiglu(const MoeLayer& layer, const MoeCall& call, MoePath path, void* workspace, cudaStream_t stream) {
  if (!moe_path_legal(layer, path) || call.tokens < 1) return cudaErrorInvalidValue;
  const Scratch scratch = lay_out(layer, call.tokens, workspace);
  if (path == MoePath::kIntStream || path == MoePath::kIntStream3) {
    return run_stream(layer, call, path == MoePath::kIntStream, scratch.arrivals, scratch.stream, stream);
  }
  BandArgs args{};
  args.layer = layer;
  args.call = call;
  args.slots_per_token = layer.top_k + layer.shared;
  args.groups = {scratch.segment_count, scratch.segments, scratch.order};
  args.rows = scratch.rows;
  args.hidden = scratch.hidden;
  args.slot_out = scratch.slot_out;
  return run_grouped(kernel_of(path), args, scratch, stream);
}

}  // namespace fairway::kernels::cuda
