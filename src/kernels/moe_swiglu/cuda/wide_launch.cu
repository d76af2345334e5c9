// The launches of the wide path: shapes, shared memory, and the kernel that prepares its inputs.
#include <algorithm>

#include "kernels/common/cuda/gpu_features.h"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/moe_swiglu/cuda/wide_kernel.cuh"
#include "kernels/moe_swiglu/cuda/wide_launch.cuh"
#include "kernels/trellis_band/cuda/ring_plan.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kInputThreads = 256;
constexpr int kInputWarps = kInputThreads / 32;

__device__ __forceinline__ void store_places(const WideArgs& a, __half* panels, int place, int block,
                                             const float (&v)[4]) {
  if (place < 0) return;
  const int k = block * kBand + 4 * static_cast<int>(threadIdx.x & 31);
  *panel_place(panels, a.places, place, k) = to_half4(v[0], v[1], v[2], v[3]);
}

// One block of 128 inputs: of a token, stored for each of its slots, where all experts share their input scales; else
// of gate or up of a slot.
struct InputUnit {
  int row, block;  // row: the token, or twice the slot and 1 for up

  __device__ InputUnit(const WideArgs& a, long long unit)
      : row(static_cast<int>(unit / (a.layer.hidden / kBand))),
        block(static_cast<int>(unit % (a.layer.hidden / kBand))) {}

  // False: a slot without an expert.
  __device__ bool transform(const WideArgs& a, float (&v)[4]) const {
    const int k = block * kBand + 4 * static_cast<int>(threadIdx.x & 31);
    if (a.layer.common_suh != nullptr) {
      transform_input(a.call.x + row * a.call.ldx + k, a.layer.common_suh + k, v);
      return true;
    }
    const int slot = row / 2, expert = slot_expert(a, slot);
    if (expert < 0) return false;
    const ExpertRef& e = a.layer.experts[expert];
    transform_input(a.call.x + static_cast<long long>(slot / a.slots_per_token) * a.call.ldx + k,
                    (row % 2 == 0 ? e.gate.suh : e.up.suh) + k, v);
    return true;
  }
  __device__ void store(const WideArgs& a, const int* places, const float (&v)[4]) const {
    if (a.layer.common_suh != nullptr) {
      for (int j = 0; j < a.slots_per_token; ++j) {
        store_places(a, a.rows, places[row * a.slots_per_token + j], block, v);
      }
      return;
    }
    const std::size_t set = static_cast<std::size_t>(row % 2) * static_cast<unsigned>(a.places);
    store_places(a, a.rows + set * static_cast<unsigned>(a.layer.hidden), places[row / 2], block, v);
  }
};

// A warp transforms its first blocks while the kernel before, which finds the places, still runs: that one has waited
// for whoever wrote the inputs.
__global__ void __launch_bounds__(kInputThreads)
    wide_inputs_kernel(const __grid_constant__ WideArgs a, const int* places) {
  constexpr int kEarly = 2;
  const int rows = a.layer.common_suh != nullptr ? a.call.tokens : 2 * a.call.tokens * a.slots_per_token;
  const long long units = static_cast<long long>(rows) * (a.layer.hidden / kBand);
  const long long step = static_cast<long long>(gridDim.x) * kInputWarps;
  long long unit = static_cast<long long>(blockIdx.x) * kInputWarps + (threadIdx.x >> 5);
  float early[kEarly][4];
  bool found[kEarly] = {};
#pragma unroll
  for (int i = 0; i < kEarly; ++i) {
    if (unit + i * step < units) found[i] = InputUnit(a, unit + i * step).transform(a, early[i]);
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
#pragma unroll
  for (int i = 0; i < kEarly; ++i, unit += step) {
    if (found[i]) InputUnit(a, unit).store(a, places, early[i]);
  }
  for (; unit < units; unit += step) {
    float v[4];
    const InputUnit one(a, unit);
    if (one.transform(a, v)) one.store(a, places, v);
  }
}

}  // namespace

std::size_t wide_places(const MoeLayer& layer, int tokens) {
  const std::size_t routed = static_cast<std::size_t>(tokens) * static_cast<std::size_t>(layer.top_k);
  return routed + 7 * std::min<std::size_t>(routed, static_cast<std::size_t>(layer.routed)) +
         static_cast<std::size_t>(layer.shared) * static_cast<std::size_t>((tokens + 7) / 8 * 8);
}

cudaError_t launch_wide_inputs(const WideArgs& args, const int* places, cudaStream_t stream) {
  const long long rows =
      args.layer.common_suh != nullptr ? args.call.tokens : 2LL * args.call.tokens * args.slots_per_token;
  const long long units = rows * (args.layer.hidden / kBand);
  const long long grid = std::max(1LL, std::min((units + kInputWarps - 1) / kInputWarps, 8LL * sm_count()));
  return launch(wide_inputs_kernel, {dim3(static_cast<unsigned>(grid)), kInputThreads}, stream, args, places);
}

cudaError_t launch_wide(WideArgs args, long long segments, cudaStream_t stream) {
  args.stage = {args.down || args.layer.common_suh != nullptr ? 1 : 2, args.layer.widths.largest()};
  const int fixed = static_cast<int>(sizeof(WideMoeShared));
  args.ring_stages = std::min(kMaxStages, (gpu_features().shared_bytes - fixed) / args.stage.bytes());
  if (args.ring_stages < 2) return cudaErrorInvalidValue;
  const long long bands = args.down ? (args.layer.hidden / kBand + 1) / 2 : args.layer.max_intermediate / kBand;
  const long long grid = std::max(1LL, std::min<long long>(segments * bands, sm_count()));
  return launch(args.layer.all_mul1 ? wide_moe_kernel<true> : wide_moe_kernel<false>,
                {dim3(static_cast<unsigned>(grid)), kWideCtaThreads, args.ring_stages * args.stage.bytes() + fixed},
                stream, args);
}

}  // namespace fairway::kernels::cuda
