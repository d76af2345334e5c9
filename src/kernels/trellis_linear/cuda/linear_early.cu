// Launches of the kernel that decodes its weights early: shapes, clusters, shared memory.
#include <algorithm>

#include "kernels/common/cuda/launch.cuh"
#include "kernels/trellis_linear/cuda/linear_early.cuh"
#include "kernels/trellis_linear/cuda/linear_early_kernel.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kUsualSms = 132;  // where there is no device to ask

struct EarlyPlan {
  int split;  // below 1: it does not fit
  int stage_bytes, input_stride, coded_bytes, gathered;
  int shared_bytes;
};

int bands_of(const LinearCall& call) {
  int bands = 0;
  for (int i = 0; i < call.count; ++i) bands += call.outputs[i].out / kBand;
  return bands;
}

template <class Path>
EarlyPlan plan_early(const LinearCall& call) {
  const int found = sm_count(), sms = found > 0 ? found : kUsualSms;
  const int bands = bands_of(call), in_blocks = call.in / kBand;
  EarlyPlan plan{};
  if (call.rows > Path::kRows || bands < 1 || bands > sms) return plan;
  const int most = std::min({kMaxCluster, in_blocks, sms / bands});
  const int blocks = (in_blocks + most - 1) / most;
  if (blocks > kMaxEarlyBlocks) return plan;
  int split = most;
  while (split > 1 && (in_blocks + split - 2) / (split - 1) == blocks) --split;  // as many CTAs as make a difference
  plan.stage_bytes = kBandTiles * 2 * kBand * call.max_bits;
  plan.input_stride = blocks * 2 * kBand + 64;
  plan.gathered = split > 1 ? split * cluster_rows(call.rows, split) * kBand / 4 : 0;
  const int later = static_cast<int>(sizeof(typename Path::Shared)) +
                    Path::kColumnsOfRow * call.rows * plan.input_stride + 16 * plan.gathered +
                    call.rows * blocks * kBand * static_cast<int>(sizeof(float));
  plan.coded_bytes = std::max(blocks * plan.stage_bytes, later);
  plan.shared_bytes =
      static_cast<int>(sizeof(EarlyShared<Path>)) + plan.coded_bytes + std::max(blocks - 1, 1) * kDecodedBlockBytes;
  if (plan.shared_bytes <= kSharedPerSm - kSharedPerCta) plan.split = split;
  return plan;
}

template <class Path>
cudaError_t run(LinearArgs& args, cudaStream_t stream) {
  const EarlyPlan plan = plan_early<Path>(args.call);
  args.bands = args.items = args.groups = bands_of(args.call);
  args.segment_rows = Path::kRows;
  args.split = plan.split;
  for (int rank = 0; rank <= plan.split; ++rank) args.share_begin[rank] = rank * (args.call.in / kBand) / plan.split;
  args.stage_bytes = plan.stage_bytes;
  args.input_stride = plan.input_stride;
  args.early_bytes = plan.coded_bytes;
  args.early_gathered = plan.gathered;
  const dim3 grid(static_cast<unsigned>(args.bands * plan.split));
  return launch(linear_early_kernel<Path>, {grid, kEarlyThreads, plan.shared_bytes, plan.split}, stream, args);
}

}  // namespace

bool early_linear_fits(const LinearCall& call, int rows) {
  return (rows == 4 ? plan_early<EarlyPath<4>>(call) : plan_early<EarlyPath<8>>(call)).split >= 1;
}

cudaError_t run_early_linear(LinearArgs& args, int rows, cudaStream_t stream) {
  return rows == 4 ? run<EarlyPath<4>>(args, stream) : run<EarlyPath<8>>(args, stream);
}

}  // namespace fairway::kernels::cuda
