// The launch of clusters that share the positions of a row, and which calls it is for.
#include "backend/cuda/check.cuh"
#include "kernels/attention_gqa/cuda/gqa_cluster_kernel.cuh"
#include "kernels/attention_gqa/cuda/gqa_decode.cuh"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/common/cuda/launch.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kSharedBytes = static_cast<int>(sizeof(GqaClusterMemory));

template <CacheType kType>
cudaError_t run(const GqaAttention& call, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(call.prepare.heads / kGqaHeads * kGqaCluster),
                  static_cast<unsigned>(call.prepare.rows.count));
  return launch(gqa_cluster_kernel<kType>, {grid, kGqaThreads, kSharedBytes, kGqaCluster}, stream,
                gqa_decode_args(call));
}

// Not every GPU with clusters has ones of 16 CTAs.
template <CacheType kType>
bool device_has_clusters() {
  int clusters = 0;
  return gpu_features().clusters &&
         count_clusters(gqa_cluster_kernel<kType>, kGqaThreads, kSharedBytes, kGqaCluster, clusters) == cudaSuccess &&
         clusters > 0;
}

}  // namespace

bool gqa_cluster_fits(const GqaAttention& call) {
  const GqaPrepare& p = call.prepare;
  return p.dim == kGqaDim && p.angles.dim == p.dim && p.kv_heads >= 1 && p.heads % (p.kv_heads * kGqaHeads) == 0 &&
         (p.rows.count == 1 || !call.attend.one_sequence) &&
         (p.cache.type == CacheType::kHalf ? device_has_clusters<CacheType::kHalf>()
                                           : device_has_clusters<CacheType::kE4m3>());
}

void gqa_cluster(const GqaAttention& call, cudaStream_t stream) {
  check_gqa_attention(call);
  backend::check_cuda(call.prepare.cache.type == CacheType::kHalf ? run<CacheType::kHalf>(call, stream)
                                                                  : run<CacheType::kE4m3>(call, stream),
                      "gqa_cluster");
}

}  // namespace fairway::kernels::cuda
