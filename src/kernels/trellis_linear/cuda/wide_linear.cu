// The launches of the wide path: segments, clusters, and the kernel that prepares its inputs.
#include <algorithm>

#include "kernels/common/cuda/gpu_features.h"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/trellis_band/cuda/ring_plan.cuh"
#include "kernels/trellis_linear/cuda/linear_inputs.cuh"
#include "kernels/trellis_linear/cuda/wide_linear.cuh"
#include "kernels/trellis_linear/cuda/wide_linear_kernel.cuh"

namespace fairway::kernels::cuda {
namespace {

// Panels of every different input.
struct StorePanels {
  const LinearArgs& a;

  __device__ void operator()(int input, int row, int k, const float (&v)[4]) const {
    __half* const panels = reinterpret_cast<__half*>(a.rows) + static_cast<std::size_t>(input) *
                                                                   static_cast<unsigned>(a.call.rows) *
                                                                   static_cast<unsigned>(a.call.in);
    *panel_place(panels, a.call.rows, row, k + 4 * static_cast<int>(threadIdx.x & 31)) =
        to_half4(v[0], v[1], v[2], v[3]);
  }
};
__global__ void __launch_bounds__(kTransformThreads) wide_linear_inputs(const __grid_constant__ LinearArgs a) {
  transform_inputs(a, StorePanels{a});
}
__global__ void __launch_bounds__(32 * kMostNormWarps) norm_wide_linear_inputs(const __grid_constant__ LinearArgs a) {
  norm_inputs(a, StorePanels{a});
}

struct WidePlan {
  int segment_rows, segments, split;
  double cost;  // microseconds, about
};

// Clusters that run at the same time. Those of more than two CTAs leave SMs of a graphics processing cluster over,
// which has 16 or 18 of them, and not all have as many.
int clusters_at_once(int split, int sms) {
  return split <= 2 ? sms / split : std::max(1, sms / 18 * (16 / split));
}

// The coefficients are measured on an H200: a panel of both bands, and from sums to outputs.
WidePlan plan_segments(const LinearCall& call, int pairs, int segments, int split, int sms) {
  WidePlan plan{};
  plan.split = split;
  plan.segment_rows = ((call.rows + segments - 1) / segments + 7) / 8 * 8;
  plan.segments = (call.rows + plan.segment_rows - 1) / plan.segment_rows;
  const int panels = (call.in / kWidePanel + split - 1) / split;
  const int at_once = clusters_at_once(split, sms), rounds = (plan.segments * pairs + at_once - 1) / at_once;
  const double panel = plan.segment_rows <= 64 ? 0.76 : plan.segment_rows <= 96 ? 0.85 : 0.95;
  plan.cost = rounds * (panels * panel + 1.5 + 0.03 * plan.segment_rows + (split > 1 ? 0.5 : 0.0));
  return plan;
}

WidePlan best_segments(const LinearCall& call, int pairs, int sms) {
  WidePlan best{};
  const int fewest = (call.rows + kWideTokens - 1) / kWideTokens;
  for (int segments = fewest; segments <= 4 * fewest && (segments == fewest || call.rows > 32 * segments); ++segments) {
    const int panels = call.in / kWidePanel;
    for (int split = 1; split <= std::min(kMaxCluster, panels); ++split) {
      if ((panels + split - 1) / split * (split - 1) >= panels) continue;  // the last CTA would have none
      const WidePlan plan = plan_segments(call, pairs, segments, split, sms);
      if (best.split == 0 || plan.cost < best.cost) best = plan;
    }
  }
  return best;
}

}  // namespace

cudaError_t run_wide_linear(const LinearArgs& args, cudaStream_t stream) {
  const LinearCall& call = args.call;
  const int sms = sm_count();
  const cudaError_t status =
      launch_inputs(call.norm.x != nullptr ? norm_wide_linear_inputs : wide_linear_inputs, args, stream);
  if (status != cudaSuccess) return status;
  WideLinearArgs wide{};
  wide.linear = args;
  for (int i = 0; i < call.count; ++i) wide.pairs += band_pairs(call.outputs[i]);
  const WidePlan plan = best_segments(call, wide.pairs, sms);
  wide.linear.segment_rows = plan.segment_rows;
  wide.linear.split = plan.split;
  wide.share_panels = (call.in / kWidePanel + plan.split - 1) / plan.split;
  wide.items = plan.segments * wide.pairs;
  wide.stage = {1, call.max_bits};
  const int fixed = static_cast<int>(sizeof(WideLinearShared));
  wide.linear.ring_stages = std::min(kMaxStages, (gpu_features().shared_bytes - fixed) / wide.stage.bytes());
  wide.groups = plan.split > 1 ? wide.items : std::min(wide.items, sms);
  return launch(call.all_mul1 ? wide_linear_kernel<true> : wide_linear_kernel<false>,
                {dim3(static_cast<unsigned>(wide.groups * plan.split)), kWideCtaThreads,
                 wide.linear.ring_stages * wide.stage.bytes() + fixed, plan.split},
                stream, wide);
}

}  // namespace fairway::kernels::cuda
