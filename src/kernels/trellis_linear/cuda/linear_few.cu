// Launches of the kernel for few rows and weights: shapes, clusters, shared memory.
#include <algorithm>

#include "kernels/common/cuda/gpu_features.h"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/trellis_linear/cuda/linear_few.cuh"
#include "kernels/trellis_linear/cuda/linear_few_kernel.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kUsualSms = 132;  // where there is no device to ask

struct FewPlan {
  int split;  // below 1: it does not fit
  int blocks;
  int stage_bytes, input_stride, input_bytes, gathered;
  int shared_bytes;
};

template <class Path>
FewPlan plan_few(const LinearCall& call) {
  const int found = sm_count(), sms = found > 0 ? found : kUsualSms;
  const int bands = count_bands(call), in_blocks = call.in / kBand;
  FewPlan plan{};
  if (call.rows > Path::kRows || bands < 1 || bands > sms) return plan;
  const int most = std::min({kMaxCluster, in_blocks, sms / bands});
  plan.blocks = (in_blocks + most - 1) / most;
  if (plan.blocks > kMaxFewBlocks) return plan;
  int split = most;  // no more CTAs than make a difference
  while (split > 1 && (in_blocks + split - 2) / (split - 1) == plan.blocks) --split;
  plan.stage_bytes = coded_block_bytes(call.max_bits);
  plan.input_stride = plan.blocks * Path::kBlockBytes + Path::kPadBytes;
  plan.input_bytes = Path::kColumns * (Path::kColumns == 2 ? call.rows : Path::kRows) * plan.input_stride;
  plan.gathered = split > 1 ? split * cluster_rows(call.rows, split) * kBand / 4 : 0;
  plan.shared_bytes = static_cast<int>(sizeof(LinearShared<Path>)) + plan.blocks * plan.stage_bytes + plan.input_bytes +
                      16 * plan.gathered + call.rows * plan.blocks * kBand * static_cast<int>(sizeof(float));
  if (plan.shared_bytes <= gpu_features().shared_bytes) plan.split = split;
  return plan;
}

FewPlan plan_of(const LinearCall& call, bool integer) {
  if (integer) return plan_few<FewIntPath>(call);
  return call.rows <= 8 ? plan_few<FewHalfPath<1>>(call) : plan_few<FewHalfPath<2>>(call);
}

template <class Path>
cudaError_t run(LinearArgs& args, cudaStream_t stream) {
  const FewPlan plan = plan_few<Path>(args.call);
  args.bands = args.items = args.groups = count_bands(args.call);
  args.segment_rows = Path::kRows;
  args.share_items(plan.split);
  args.ring_stages = plan.blocks;
  args.stage_bytes = plan.stage_bytes;
  args.input_stride = plan.input_stride;
  args.few_input_bytes = plan.input_bytes;
  args.few_gathered = plan.gathered;
  const dim3 grid(static_cast<unsigned>(args.bands * plan.split));
  return launch(linear_few_kernel<Path>, {grid, 32 * kFewWarps, plan.shared_bytes, plan.split}, stream, args);
}

}  // namespace

bool few_linear_fits(const LinearCall& call, bool integer) {
  return (!integer || call.all_mul1) && plan_of(call, integer).split >= 1;
}

// As halves with two blocks a CTA, where the norm in front saves a launch (the first projections and q_b_proj of
// GLM-4.7-Flash: 3 % of a step). As integers where a few CTAs have many blocks each and there are several rows (q, k
// and v of Qwen3-30B-A3B: 1 to 3 %, but -1.4 % with one row); smaller calls lose 1 % then, since a step whose linear
// layers all run the same code finds it in the caches.
bool few_linear_pays(const LinearCall& call, bool integer) {
  const FewPlan plan = plan_of(call, integer);
  if (plan.split < 1 || !gpu_features().clusters) return false;
  return integer ? call.rows > 1 && plan.split <= 3 && plan.blocks > 2 : plan.blocks <= 2;
}

cudaError_t run_few_linear(LinearArgs& args, bool integer, cudaStream_t stream) {
  if (integer) return run<FewIntPath>(args, stream);
  return args.call.rows <= 8 ? run<FewHalfPath<1>>(args, stream) : run<FewHalfPath<2>>(args, stream);
}

}  // namespace fairway::kernels::cuda
