// The launches of an expert layer: shapes, shared memory, scratch.
#include <algorithm>
#include <string>

#include "backend/cuda/check.cuh"
#include "fairway/error.h"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/moe_swiglu/cuda/band_kernels.cuh"
#include "kernels/moe_swiglu/cuda/group.cuh"
#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"
#include "kernels/moe_swiglu/cuda/stream_launch.cuh"
#include "kernels/moe_swiglu/cuda/wide_launch.cuh"
#include "kernels/trellis_band/cuda/ring_plan.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kInputPadBytes = 32;

struct PathFacts {
  const char* name;
  bool integer;
  int tokens;
};
constexpr PathFacts kPaths[kMoePaths] = {{"int_direct", true, 4}, {"int_direct1", true, 4},
                                         {"int_stream", true, 4}, {"int_stream3", true, 4},
                                         {"int_4", true, 4},      {"int_8", true, 8},
                                         {"half_8", false, 8},    {"half_16", false, 16},
                                         {"half_32", false, 32},  {"wg_128", false, kWideTokens}};

const PathFacts& facts(MoePath path) {
  return kPaths[static_cast<int>(path)];
}

BandKernel kernel_of(MoePath path) {
  const PathFacts& f = facts(path);
  if (f.integer) return int_band_kernel(f.tokens);
  return f.tokens <= 16 ? half_band_kernel(f.tokens) : half_band_kernel_many();
}

long long max_segments(const MoeLayer& layer, int tokens, int chunk) {
  const long long routed = static_cast<long long>(tokens) * layer.top_k;
  return std::min<long long>(routed, layer.routed + routed / chunk) +
         static_cast<long long>(layer.shared) * ((tokens + chunk - 1) / chunk);
}

// Scratch, laid out one after the other.
struct Scratch {
  int* segment_count;
  Segment* segments;
  int* order;
  __half* rows;
  __half* hidden;
  float* slot_out;
  int* places;         // the wide path alone, as are
  unsigned* counters;  // [2]
  int order_places;    // places of `order` and rows of the panels of that path
  std::size_t bytes;
};

// wide: for the wide path, else for the others.
Scratch lay_out(const MoeLayer& layer, int tokens, bool wide, void* base) {
  std::size_t at = 0;
  const auto take = [&](std::size_t bytes) {
    const std::size_t begin = at;
    at += (bytes + 255) / 256 * 256;
    return static_cast<char*>(base) + begin;
  };
  const std::size_t slots = static_cast<std::size_t>(tokens) * static_cast<std::size_t>(layer.top_k + layer.shared);
  Scratch s{};
  const std::size_t places = wide ? wide_places(layer, tokens) : slots;
  s.order_places = static_cast<int>(places);
  std::size_t rows = layer.common_suh != nullptr ? static_cast<std::size_t>(tokens) : 2 * slots;
  if (wide) rows = layer.common_suh != nullptr ? places : 2 * places;
  s.segment_count = reinterpret_cast<int*>(take(sizeof(int)));
  s.segments = reinterpret_cast<Segment*>(take(sizeof(Segment) * max_segments(layer, tokens, 4)));
  s.order = reinterpret_cast<int*>(take(sizeof(int) * places));
  s.rows = reinterpret_cast<__half*>(take(sizeof(__half) * rows * layer.hidden));
  s.hidden = reinterpret_cast<__half*>(take(sizeof(__half) * places * layer.max_intermediate));
  s.slot_out = reinterpret_cast<float*>(take(sizeof(float) * slots * layer.hidden));
  if (wide) {
    s.places = reinterpret_cast<int*>(take(sizeof(int) * slots));
    s.counters = reinterpret_cast<unsigned*>(take(sizeof(unsigned) * 2));
  }
  s.bytes = at;
  return s;
}

// Inputs of a CTA in shared memory: bytes of a column.
int input_stride_of(int blocks) {
  return blocks * kBand + kInputPadBytes;
}
int band_stage_bytes(const BandKernel& kernel, const MoeLayer& layer) {
  return coded_block_bytes(layer.widths.largest()) + kernel.stage_token_bytes;
}
// Beside the ring.
int band_fixed_bytes(const BandKernel& kernel, int input_stride) {
  return kernel.shared_bytes + (kernel.integer ? 2 * kernel.tokens * input_stride : 0);
}

// Whether both phases have room for a stage, whatever the number of tokens.
bool band_fits(const BandKernel& kernel, const MoeLayer& layer, int shared_bytes) {
  const int fixed = band_fixed_bytes(kernel, input_stride_of(std::max(layer.hidden, layer.max_intermediate) / kBand));
  return plan_ring(shared_bytes, 1, fixed, band_stage_bytes(kernel, layer), 1).stages >= 1;
}

// Fills in the ring and the cluster and launches one phase over `rows` tokens or segments (an upper bound of them).
cudaError_t launch_band(const BandKernel& kernel, BandArgs args, Phase phase, long long rows, cudaStream_t stream) {
  const MoeLayer& layer = args.layer;
  const GpuFeatures features = gpu_features();
  const int sms = sm_count();
  args.phase = phase;
  const bool gate_up = phase == Phase::kGateUp;
  const long long items = rows * ((gate_up ? layer.max_intermediate : layer.hidden) / kBand);
  args.split = 1;
  int part_blocks = gate_up ? 2 * (layer.hidden / kBand) : args.slots_per_token * (layer.max_intermediate / kBand);
  if (args.direct && features.clusters) {  // few items: a cluster for each, as long as its CTAs fit on the SMs at once
    const int most = gate_up ? layer.hidden / kBand : kMaxCluster;
    while (args.split < kMaxCluster && 2 * args.split <= most && items * 2 * args.split <= args.direct_ctas * sms) {
      args.split *= 2;
    }
    part_blocks = (part_blocks + args.split - 1) / args.split;
  }
  const int input_blocks =
      gate_up ? (layer.hidden / kBand + args.split - 1) / args.split : layer.max_intermediate / kBand;
  args.input_stride = input_stride_of(input_blocks);
  args.stage_bytes = band_stage_bytes(kernel, layer);
  const int fixed = band_fixed_bytes(kernel, args.input_stride);
  // A third CTA on an SM pays where each has two items at least.
  const bool third = features.clusters && items >= 2LL * kernel.ctas * sms;
  const int ctas = third ? kernel.ctas : std::min(kernel.ctas, 2);
  // A CTA of a cluster handles one item, others go on to the next.
  const RingPlan plan =
      plan_ring(features.shared_bytes, ctas, fixed, args.stage_bytes, args.split > 1 ? part_blocks : kMaxStages);
  args.ring_stages = plan.stages;
  if (args.ring_stages < 1) return cudaErrorInvalidValue;  // the layer is too wide for this path
  const long long grid =
      args.split > 1 ? items * args.split : std::min<long long>(items, static_cast<long long>(plan.ctas) * sms);
  args.item_step = static_cast<int>(grid / args.split);
  return launch(
      kernel.run,
      {dim3(static_cast<unsigned>(grid)), kBandThreads, args.ring_stages * args.stage_bytes + fixed, args.split},
      stream, args);
}

cudaError_t run_direct(const BandKernel& kernel, BandArgs args, int ctas, cudaStream_t stream) {
  args.direct = true;
  args.direct_ctas = ctas;
  const cudaError_t status = launch_band(kernel, args, Phase::kGateUp,
                                         static_cast<long long>(args.call.tokens) * args.slots_per_token, stream);
  if (status != cudaSuccess) return status;
  return launch_band(kernel, args, Phase::kDownDirect, args.call.tokens, stream);
}

cudaError_t launch_sum(const BandArgs& args, cudaStream_t stream) {
  const long long quads = static_cast<long long>(args.call.tokens) * args.layer.hidden / 4;
  return launch(sum_slots_kernel, {dim3(static_cast<unsigned>((quads + 255) / 256)), 256}, stream, args);
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
  cudaError_t status = launch(prepare_kernel,
                              {dim3(static_cast<unsigned>(blocks)), kPrepareThreads,
                               kPrepareWarps * layer.routed * static_cast<int>(sizeof(int))},
                              stream, args, outputs, scratch.rows);
  if (status == cudaSuccess) status = launch_band(kernel, args, Phase::kGateUp, segments, stream);
  if (status == cudaSuccess) status = launch_band(kernel, args, Phase::kDown, segments, stream);
  return status == cudaSuccess ? launch_sum(args, stream) : status;
}

cudaError_t run_wide(const BandArgs& args, const Scratch& scratch, cudaStream_t stream) {
  const MoeLayer& layer = args.layer;
  const GroupOutputs outputs{scratch.segment_count, scratch.segments, scratch.order, kWideTokens, true,
                             scratch.places,        scratch.counters};
  cudaError_t status =
      launch(prepare_kernel, {dim3(1), kPrepareThreads, kPrepareWarps * layer.routed * static_cast<int>(sizeof(int))},
             stream, args, outputs, scratch.rows);
  WideArgs wide{};
  wide.layer = layer;
  wide.call = args.call;
  wide.slots_per_token = args.slots_per_token;
  wide.groups = args.groups;
  wide.places = scratch.order_places;
  wide.rows = scratch.rows;
  wide.hidden = scratch.hidden;
  wide.slot_out = scratch.slot_out;
  if (status == cudaSuccess) status = launch_wide_inputs(wide, scratch.places, stream);
  const long long segments = max_segments(layer, args.call.tokens, kWideTokens);
  for (int phase = 0; phase < 2 && status == cudaSuccess; ++phase) {
    wide.down = phase == 1;
    wide.next_item = scratch.counters + phase;
    status = launch_wide(wide, segments, stream);
  }
  return status == cudaSuccess ? launch_sum(args, stream) : status;
}

}  // namespace

const char* moe_path_name(MoePath path) {
  return facts(path).name;
}

bool moe_path_legal(const MoeLayer& layer, MoePath path) {
  if (!layer.all_mul1 && facts(path).integer) return false;
  const GpuFeatures features = gpu_features();
  switch (path) {
    case MoePath::kWide128:
      return features.wgmma;
    case MoePath::kIntStream:
    case MoePath::kIntStream3:
      return stream_fits(layer, path == MoePath::kIntStream);
    default:
      return band_fits(kernel_of(path), layer, features.shared_bytes);
  }
}

// By the rows that an expert has on average, shared ones included, and by those of a call that one launch of the stream
// path takes. The fastest of the paths at 1, 2, 4, ... 1024 tokens of GLM-4.7-Flash and Qwen3-30B-A3B on an H200,
// inside chains of layers (`fairway bench selection --device cuda`). Without mul1 the half paths alone were compared.
MoePath moe_default_path(const MoeLayer& layer, int tokens) {
  const double slots = static_cast<double>(tokens) * (layer.top_k + layer.shared);
  const double rows = slots / std::max(layer.routed + layer.shared, 1);
  if (layer.all_mul1 && rows <= 5 && tokens <= stream_tokens(layer, true)) return MoePath::kIntStream;
  if (layer.all_mul1 && rows <= 5 && tokens <= stream_tokens(layer, false)) return MoePath::kIntStream3;
  if (rows <= 2 && moe_path_legal(layer, MoePath::kInt4)) return MoePath::kInt4;
  if (rows <= 5) return MoePath::kHalf8;
  if (rows <= 10) return MoePath::kHalf16;
  return gpu_features().wgmma ? MoePath::kWide128 : MoePath::kHalf32;
}

std::size_t moe_workspace_bytes(const MoeLayer& layer, int max_tokens) {
  const std::size_t stream = layer.all_mul1 ? stream_scratch_bytes(layer, max_tokens) : 0;
  return std::max(
      {lay_out(layer, max_tokens, false, nullptr).bytes, lay_out(layer, max_tokens, true, nullptr).bytes, stream});
}

bool moe_polls_routes(const MoeLayer& layer, int tokens, MoePath path) {
  return path == MoePath::kIntStream && moe_path_legal(layer, path) && stream_starts_early(layer, tokens);
}

bool moe_polls_row(const MoeLayer& layer, int tokens, MoePath path, const MoeNorm& norm) {
  return moe_polls_routes(layer, tokens, path) && stream_polls_row(layer, tokens, norm);
}

void moe_swiglu(const MoeLayer& layer, const MoeCall& call, MoePath path, void* workspace, cudaStream_t stream) {
  const std::string name = std::string("CUDA expert layer, path ") + moe_path_name(path);
  if (!moe_path_legal(layer, path)) {
    throw Error(ErrorKind::kUsage, name + ": it needs a layer whose matrices all use the codebook mul1");
  }
  if (call.tokens < 1) {
    throw Error(ErrorKind::kUsage, name + ": " + std::to_string(call.tokens) + " tokens, expected 1 or more");
  }
  int device = 0;
  backend::check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  require_gpu(device);
  if (!moe_path_legal(layer, path)) {
    throw Error(ErrorKind::kUnsupported, name + ": this GPU or its code has no instructions or shared memory for it");
  }
  if (path == MoePath::kIntStream || path == MoePath::kIntStream3) {
    backend::check_cuda(run_stream(layer, call, path == MoePath::kIntStream, workspace, stream), name);
    return;
  }
  const bool wide = path == MoePath::kWide128;
  const Scratch scratch = lay_out(layer, call.tokens, wide, workspace);
  BandArgs args{};
  args.layer = layer;
  args.call = call;
  args.slots_per_token = layer.top_k + layer.shared;
  args.groups = {scratch.segment_count, scratch.segments, scratch.order};
  args.rows = scratch.rows;
  args.hidden = scratch.hidden;
  args.slot_out = scratch.slot_out;
  if (wide) {
    backend::check_cuda(run_wide(args, scratch, stream), name);
    return;
  }
  const BandKernel kernel = kernel_of(path);
  const bool direct = path == MoePath::kIntDirect || path == MoePath::kIntDirect1;
  backend::check_cuda(direct ? run_direct(kernel, args, path == MoePath::kIntDirect ? 2 : 1, stream)
                             : run_grouped(kernel, args, scratch, stream),
                      name);
}

}  // namespace fairway::kernels::cuda
