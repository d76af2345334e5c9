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
  int stage_bytes, input_stride, input_bytes, gathered;
  int shared_bytes;
};

int bands_of(const LinearCall& call) {
  int bands = 0;
  for (int i = 0; i < call.count; ++i) bands += call.outputs[i].out / kBand;
  return bands;
}

template <class Path>
FewPlan plan_few(const LinearCall& call) {
  const int found = sm_count(), sms = found > 0 ? found : kUsualSms;
  const int bands = bands_of(call), in_blocks = call.in / kBand;
  FewPlan plan{};
  if (call.rows > Path::kRows || bands < 1 || bands > sms) return plan;
  const int most = std::min({kMaxCluster, in_blocks, sms / bands});
  plan.blocks = (in_blocks + most - 1) / most;
  if (plan.blocks > kMaxFewBlocks) return plan;
  int split = most;  // no more CTAs than make a difference
  while (split > 1 && (in_blocks + split - 2) / (split - 1) == plan.blocks) --split;
  plan.stage_bytes = kBandTiles * 2 * kBand * call.max_bits;
  plan.input_stride = plan.blocks * Path::kBlockBytes + Path::kPadBytes;
  plan.input_bytes = Path::kColumns * (Path::kColumns == 2 ? call.rows : Path::kRows) * plan.input_stride;
  plan.gathered = split > 1 ? split * cluster_rows(call.rows, split) * kBand / 4 : 0;
  plan.shared_bytes = static_cast<int>(sizeof(LinearShared<Path>)) + plan.blocks * plan.stage_bytes + plan.input_bytes +
                      16 * plan.gathered + call.rows * plan.blocks * kBand * static_cast<int>(sizeof(float));
  if (plan.shared_bytes <= kSharedPerSm - kSharedPerCta) plan.split = split;
  return plan;
}

template <class Path>
cudaError_t run(LinearArgs& args, cudaStream_t stream) {
  const FewPlan plan = plan_few<Path>(args.call);
  args.bands = args.items = args.groups = bands_of(args.call);
  args.segment_rows = Path::kRows;
  args.split = plan.split;
  for (int rank = 0; rank <= plan.split; ++rank) args.share_begin[rank] = rank * (args.call.in / kBand) / plan.split;
  args.ring_stages = plan.blocks;
  args.stage_bytes = plan.stage_bytes;
  args.input_stride = plan.input_stride;
  args.few_input_bytes = plan.input_bytes;
  args.few_gathered = plan.gathered;
  const dim3 grid(static_cast<unsigned>(args.bands * plan.split));
  return launch(linear_few_kernel<Path>, {grid, 32 * Path::kWarps, plan.shared_bytes, plan.split}, stream, args);
}

}  // namespace

bool few_linear_fits(const LinearCall& call, bool integer) {
  if (integer) return call.all_mul1 && plan_few<FewIntPath<2>>(call).split >= 1;
  if (call.rows <= 8) return plan_few<FewHalfPath<1, 2>>(call).split >= 1;
  if (call.rows <= 16) return plan_few<FewHalfPath<2, 2>>(call).split >= 1;
  return plan_few<FewHalfPath<4, 1>>(call).split >= 1;
}

cudaError_t run_few_linear(LinearArgs& args, bool integer, cudaStream_t stream) {
  if (integer) return run<FewIntPath<2>>(args, stream);
  if (args.call.rows <= 8) return run<FewHalfPath<1, 2>>(args, stream);
  if (args.call.rows <= 16) return run<FewHalfPath<2, 2>>(args, stream);
  return run<FewHalfPath<4, 1>>(args, stream);
}

}  // namespace fairway::kernels::cuda
