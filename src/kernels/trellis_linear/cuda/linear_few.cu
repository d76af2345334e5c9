// Launches of the kernel for few rows and weights: shapes, clusters, shared memory.
#include <algorithm>

#include "kernels/common/cuda/launch.cuh"
#include "kernels/trellis_linear/cuda/linear_few.cuh"
#include "kernels/trellis_linear/cuda/linear_few_kernel.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kUsualSms = 132;  // where there is no device to ask

struct FewPlan {
  int split;  // below 1: it does not fit
  int blocks;
  int stage_bytes, input_stride, gathered;
  int shared_bytes;
};

int bands_of(const LinearCall& call) {
  int bands = 0;
  for (int i = 0; i < call.count; ++i) bands += call.outputs[i].out / kBand;
  return bands;
}

FewPlan plan_few(const LinearCall& call) {
  const int found = sm_count(), sms = found > 0 ? found : kUsualSms;
  const int bands = bands_of(call), in_blocks = call.in / kBand;
  FewPlan plan{};
  if (!call.all_mul1 || call.rows > FewPath::kRows || bands < 1 || bands > sms) return plan;
  const int most = std::min({kMaxCluster, in_blocks, sms / bands});
  plan.blocks = (in_blocks + most - 1) / most;
  if (plan.blocks > kMaxFewBlocks) return plan;
  int split = most;  // no more CTAs than make a difference
  while (split > 1 && (in_blocks + split - 2) / (split - 1) == plan.blocks) --split;
  plan.stage_bytes = kBandTiles * 2 * kBand * call.max_bits;
  plan.input_stride = plan.blocks * kBand + 32;
  plan.gathered = split > 1 ? split * cluster_rows(call.rows, split) * kBand / 4 : 0;
  plan.shared_bytes = static_cast<int>(sizeof(LinearShared<FewPath>)) + plan.blocks * plan.stage_bytes +
                      2 * call.rows * plan.input_stride + 16 * plan.gathered +
                      call.rows * plan.blocks * kBand * static_cast<int>(sizeof(float));
  if (plan.shared_bytes <= kSharedPerSm / 2 - kSharedPerCta) plan.split = split;
  return plan;
}

}  // namespace

bool few_linear_fits(const LinearCall& call) {
  return plan_few(call).split >= 1;
}

cudaError_t run_few_linear(LinearArgs& args, cudaStream_t stream) {
  const FewPlan plan = plan_few(args.call);
  args.bands = args.items = args.groups = bands_of(args.call);
  args.segment_rows = FewPath::kRows;
  args.split = plan.split;
  for (int rank = 0; rank <= plan.split; ++rank) args.share_begin[rank] = rank * (args.call.in / kBand) / plan.split;
  args.ring_stages = plan.blocks;
  args.stage_bytes = plan.stage_bytes;
  args.input_stride = plan.input_stride;
  args.few_gathered = plan.gathered;
  const dim3 grid(static_cast<unsigned>(args.bands * plan.split));
  return launch(linear_few_kernel, {grid, kFewLinearThreads, plan.shared_bytes, plan.split}, stream, args);
}

}  // namespace fairway::kernels::cuda
