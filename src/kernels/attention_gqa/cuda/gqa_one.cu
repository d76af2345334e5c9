// The launch of the projections and the attention of one row, and which calls it is for.
#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "backend/cuda/check.cuh"
#include "fairway/error.h"
#include "kernels/attention_gqa/cuda/gqa_decode.cuh"
#include "kernels/attention_gqa/cuda/gqa_one_kernel.cuh"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/common/cuda/launch.cuh"

namespace fairway::kernels::cuda {
namespace {

// Above this the positions are read by too few CTAs.
constexpr int kOneContext = 4096;

// Two CTAs of an SM, so that the next launch's start beside them.
constexpr int kSmBytes = 228 * 1024, kCtaReserve = 1024;

using OneKernel = void (*)(GqaOneArgs);

OneKernel kernel_of(CacheType type) {
  return type == CacheType::kHalf ? gqa_one_kernel<CacheType::kHalf> : gqa_one_kernel<CacheType::kE4m3>;
}

int clusters_of(const GqaAttention& call) {
  return call.prepare.heads / kGqaHeads;
}

bool same_inputs(const LinearCall& call) {
  return call.outputs[0].matrix.suh == call.outputs[1].matrix.suh &&
         call.outputs[0].matrix.suh == call.outputs[2].matrix.suh;
}

struct OnePlan {
  int stages, shared_bytes;
};

OnePlan plan_of(const GqaAttention& call) {
  const LinearCall& linear = call.projections;
  const int coded = linear.in / 16 *
                    one_row_bytes(linear.outputs[0].matrix.bits,
                                  std::max(linear.outputs[1].matrix.bits, linear.outputs[2].matrix.bits));
  const int inputs = same_inputs(linear) ? 1 : 2;
  const auto bytes = [&](int stages) {
    return call.prepare.cache.type == CacheType::kHalf
               ? GqaOneCta<CacheType::kHalf>::shared_bytes(inputs, stages, coded)
               : GqaOneCta<CacheType::kE4m3>::shared_bytes(inputs, stages, coded);
  };
  // No more than the positions fill, and two where there is no room for two CTAs.
  constexpr int kOfStage = kGqaCluster * kGqaOneWarps * 4;
  int stages = std::clamp((call.attend.max_context + kOfStage - 1) / kOfStage, 1, kMostStages);
  while (stages > 2 && bytes(stages) > kSmBytes / 2 - kCtaReserve) --stages;
  return {stages, bytes(stages)};
}

// Clusters of the kernel that the device has room for at a time.
int clusters_at_once(OneKernel kernel, int shared_bytes) {
  static std::mutex mutex;
  static std::map<std::pair<int, std::pair<OneKernel, int>>, int> known;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  const std::lock_guard lock(mutex);
  const auto [found, is_new] = known.try_emplace({device, {kernel, shared_bytes}}, 0);
  if (is_new && max_clusters(kernel, kGqaOneThreads, shared_bytes, kGqaCluster, found->second) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    found->second = 0;
  }
  return found->second;
}

bool plain_matrix(const LinearOutput& output, int heads) {
  return output.out == heads * kGqaOneDim && output.out_exact == output.out && output.bias == nullptr && !output.add;
}

}  // namespace

bool gqa_one_fits(const GqaAttention& call) {
  const GqaPrepare& p = call.prepare;
  const LinearCall& linear = call.projections;
  if (!gpu_features().clusters || p.rows.count != 1 || call.attend.max_context > kOneContext) return false;
  if (p.dim != kGqaOneDim || p.kv_heads < 1 || p.heads % (p.kv_heads * kGqaHeads) != 0) return false;
  if (linear.count != 3 || linear.rows != 1 || !linear.all_mul1 || linear.in > kGqaOneInputs ||
      linear.norm.x == nullptr || !linear_norm_legal(linear.norm, linear.in)) {
    return false;
  }
  if (!plain_matrix(linear.outputs[0], p.heads) || !plain_matrix(linear.outputs[1], p.kv_heads) ||
      !plain_matrix(linear.outputs[2], p.kv_heads)) {
    return false;
  }
  const OnePlan plan = plan_of(call);
  return plan.shared_bytes <= gpu_features().shared_bytes &&
         clusters_at_once(kernel_of(p.cache.type), plan.shared_bytes) >= clusters_of(call);
}

void gqa_one(const GqaAttention& call, cudaStream_t stream) {
  check_gqa_attention(call);
  if (!gqa_one_fits(call)) {
    throw Error(ErrorKind::kUsage, "CUDA grouped-query attention with its projections: not for " +
                                       std::to_string(call.prepare.rows.count) + " rows of " +
                                       std::to_string(call.prepare.heads) + " heads of " +
                                       std::to_string(call.prepare.dim) + " and " +
                                       std::to_string(call.projections.in) + " inputs");
  }
  const LinearCall& linear = call.projections;
  const OnePlan plan = plan_of(call);
  const GqaOneArgs args{call.prepare,
                        linear.norm,
                        linear.outputs[0].matrix,
                        linear.outputs[1].matrix,
                        linear.outputs[2].matrix,
                        linear.in,
                        same_inputs(linear),
                        plan.stages,
                        call.attend.scale * 1.4426950408889634f,
                        call.attend.out};
  const dim3 grid(static_cast<unsigned>(clusters_of(call) * kGqaCluster));
  backend::check_cuda(
      launch(kernel_of(call.prepare.cache.type), {grid, kGqaOneThreads, plan.shared_bytes, kGqaCluster}, stream, args),
      "gqa_one");
}

}  // namespace fairway::kernels::cuda
