// Which launches a step's grouped-query attention takes.
#include <string>

#include "backend/cuda/check.cuh"
#include "fairway/error.h"
#include "kernels/attention_gqa/cuda/gqa_decode.cuh"
#include "kernels/attention_gqa/cuda/gqa_decode_kernel.cuh"
#include "kernels/common/cuda/launch.cuh"

namespace fairway::kernels::cuda {
namespace {

// Above these the positions are read too often: by every head.
constexpr int kDecodeRows = 4, kDecodeContext = 256;
// Of one row, a cluster shares the positions from the first of these on up to the second.
constexpr int kClusterRows = 1, kClusterFirst = 129, kClusterContext = 4096;

void require_same(int a, int b, const char* what) {
  if (a == b) return;
  throw Error(ErrorKind::kUsage, std::string("CUDA grouped-query attention: ") + what + " " + std::to_string(a) +
                                     ", expected " + std::to_string(b));
}

}  // namespace

void check_gqa_attention(const GqaAttention& call) {
  const GqaPrepare& prepare = call.prepare;
  check_gqa_prepare(prepare);
  require_same(call.attend.heads, prepare.heads, "heads of the attention");
  require_same(call.attend.kv_heads, prepare.kv_heads, "key/value heads of the attention");
  require_same(call.attend.key_dim, prepare.dim, "key_dim of the attention");
  require_same(call.attend.value_dim, prepare.dim, "value_dim of the attention");
}

bool gqa_decode_fits(const GqaAttention& call) {
  const GqaPrepare& prepare = call.prepare;
  return prepare.dim <= kGqaDim && prepare.dim % (2 * kCachePiece) == 0 && prepare.kv_heads >= 1 &&
         prepare.heads % prepare.kv_heads == 0 && (prepare.rows.count == 1 || !call.attend.one_sequence);
}

void gqa_decode(const GqaAttention& call, cudaStream_t stream) {
  check_gqa_attention(call);
  const GqaPrepare& prepare = call.prepare;
  const bool is_usual =
      prepare.dim == kGqaDim && prepare.angles.dim == kGqaDim && prepare.angles.layout == RopeLayout::kHalves;
  const bool halves = prepare.cache.type == CacheType::kHalf;
  const auto kernel =
      is_usual ? (halves ? gqa_decode_kernel<CacheType::kHalf, kGqaDim> : gqa_decode_kernel<CacheType::kE4m3, kGqaDim>)
               : (halves ? gqa_decode_kernel<CacheType::kHalf, 0> : gqa_decode_kernel<CacheType::kE4m3, 0>);
  const dim3 grid(static_cast<unsigned>(prepare.heads / prepare.kv_heads), static_cast<unsigned>(prepare.kv_heads),
                  static_cast<unsigned>(prepare.rows.count));
  const LaunchShape shape{grid, kGqaThreads, static_cast<int>(sizeof(GqaDecodeMemory))};
  backend::check_cuda(launch(kernel, shape, stream, gqa_decode_args(call)), "gqa_decode");
}

void gqa_attention(const GqaAttention& call, void* workspace, cudaStream_t stream) {
  if (call.prepare.rows.count <= kClusterRows && call.attend.max_context >= kClusterFirst &&
      call.attend.max_context <= kClusterContext && gqa_cluster_fits(call)) {
    gqa_cluster(call, stream);
    return;
  }
  if (call.prepare.rows.count <= kDecodeRows && call.attend.max_context <= kDecodeContext && gqa_decode_fits(call)) {
    gqa_decode(call, stream);
    return;
  }
  gqa_prepare(call.prepare, stream);
  attend(call.attend, workspace, stream);
}

}  // namespace fairway::kernels::cuda
