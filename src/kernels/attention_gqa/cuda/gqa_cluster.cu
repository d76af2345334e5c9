// The launch of clusters that share the positions of a row, and which calls it is for.
#include <map>
#include <mutex>
#include <string>

#include "backend/cuda/check.cuh"
#include "fairway/error.h"
#include "kernels/attention_gqa/cuda/gqa_cluster_kernel.cuh"
#include "kernels/attention_gqa/cuda/gqa_decode.cuh"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/common/cuda/launch.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kSharedBytes = static_cast<int>(sizeof(GqaClusterMemory));

template <CacheType kType>
cudaError_t run(const GqaAttention& call, cudaStream_t stream) {
  const GqaDecodeArgs args{call.prepare, call.attend.scale * 1.4426950408889634f, call.attend.out};
  const dim3 grid(static_cast<unsigned>(call.prepare.heads / kGqaHeads * kGqaCluster),
                  static_cast<unsigned>(call.prepare.rows.count));
  return launch(gqa_cluster_kernel<kType>, {grid, kGqaThreads, kSharedBytes, kGqaCluster}, stream, args);
}

// Not every GPU with clusters has ones of 16 CTAs.
template <CacheType kType>
bool device_has_clusters() {
  static std::mutex mutex;
  static std::map<int, bool> known;
  int device = 0;
  if (!gpu_features().clusters || cudaGetDevice(&device) != cudaSuccess) return false;
  const std::lock_guard lock(mutex);
  const auto [found, is_new] = known.try_emplace(device, false);
  if (is_new) {
    int clusters = 0;
    const cudaError_t status =
        clusters_at_once(gqa_cluster_kernel<kType>, kGqaThreads, kSharedBytes, kGqaCluster, clusters);
    if (status != cudaSuccess) static_cast<void>(cudaGetLastError());
    found->second = status == cudaSuccess && clusters > 0;
  }
  return found->second;
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
