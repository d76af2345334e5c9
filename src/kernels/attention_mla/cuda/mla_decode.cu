// Which launches a step's latent attention takes.
#include <algorithm>
#include <string>

#include "backend/cuda/check.cuh"
#include "fairway/error.h"
#include "kernels/attention_mla/cuda/mla_decode.cuh"
#include "kernels/attention_mla/cuda/mla_decode_kernel.cuh"
#include "kernels/attention_mla/cuda/mla_prepare_absorb.cuh"
#include "kernels/common/cuda/chunk.cuh"
#include "kernels/common/cuda/launch.cuh"

namespace fairway::kernels::cuda {
namespace {

// Above these the positions are read too often: by every head.
constexpr int kDecodeRows = 1, kDecodeContext = 1024;
constexpr int kMaxPrepareCtas = 160;  // about as many as run beside those that absorb

void require_same(int a, int b, const char* what) {
  if (a == b) return;
  throw Error(ErrorKind::kUsage, std::string("CUDA latent attention: ") + what + " " + std::to_string(a) +
                                     ", expected " + std::to_string(b));
}

void check(const MlaAttention& call) {
  const MlaUpProjection& up = call.up;
  check_mla_prepare(call.prepare);
  check_mla_projection(up, call.prepare.rows.count);
  check_mla_output(up, call.ldo);
  require_same(call.prepare.heads, up.heads, "heads of the queries");
  require_same(call.prepare.nope, up.nope, "nope of the queries");
  require_same(call.prepare.latent, up.latent, "latent of the cache");
  require_same(call.attend.heads, up.heads, "heads of the attention");
  require_same(call.attend.value_dim, up.latent, "value_dim of the attention");
  require_same(call.attend.key_dim, up.latent + call.prepare.angles.dim, "key_dim of the attention");
}

}  // namespace

bool mla_decode_fits(const MlaAttention& call) {
  const int key = call.attend.key_dim;
  return one_row_fits(call.up) && key <= kDecodeKey && key % kCachePiece == 0 && call.prepare.rows.count <= 65535 &&
         call.prepare.ldkv % 4 == 0 && is_aligned(call.prepare.kv) &&
         (call.prepare.rows.count == 1 || !call.attend.one_sequence);
}

void mla_decode(const MlaAttention& call, cudaStream_t stream) {
  check(call);
  const MlaPrepare& prepare = call.prepare;
  const dim3 grid(static_cast<unsigned>(prepare.heads * kOneCluster), static_cast<unsigned>(prepare.rows.count));
  const MlaDecodeArgs args{prepare, call.up, call.attend.scale * 1.4426950408889634f, call.out, call.ldo};
  with_up_weight(call.up.type, [&](auto type) {
    constexpr UpWeight kUp = decltype(type)::value;
    const auto kernel = prepare.cache.type == CacheType::kHalf ? mla_decode_kernel<CacheType::kHalf, kUp>
                                                               : mla_decode_kernel<CacheType::kE4m3, kUp>;
    const LaunchShape shape{grid, kOneThreads, static_cast<int>(sizeof(DecodeMemory<kUp>)), kOneCluster};
    backend::check_cuda(launch(kernel, shape, stream, args), "mla_decode");
  });
}

bool mla_prepare_absorb_fits(const MlaPrepare& prepare, const MlaUpProjection& up) {
  const int head = prepare.nope + prepare.angles.dim;
  return prepare.rows.count <= kMaxFewRows && head % 4 == 0 && prepare.ldq % 4 == 0 && is_aligned(prepare.q) &&
         is_aligned(prepare.q_full) && (up.latent + prepare.angles.dim) % 8 == 0;
}

void mla_prepare_absorb(const MlaPrepare& prepare, const MlaUpProjection& up, cudaStream_t stream) {
  check_mla_prepare(prepare);
  check_mla_projection(up, prepare.rows.count);
  const int rows = prepare.rows.count, block_rows = rows_of_block(rows);
  const int absorb_ctas = up.heads * (up.latent / kAbsorbOutputs), row_blocks = (rows + block_rows - 1) / block_rows;
  constexpr int kWarps = kFewThreads / 32;
  const int ctas = std::min((rows * (up.heads + 1) + kWarps - 1) / kWarps, kMaxPrepareCtas);
  const dim3 grid(static_cast<unsigned>(absorb_ctas + (ctas + row_blocks - 1) / row_blocks),
                  static_cast<unsigned>(row_blocks));
  const PrepareAbsorb args{prepare, up, block_rows, absorb_ctas};
  with_up_weight(up.type, [&](auto type) {
    constexpr UpWeight kUp = decltype(type)::value;
    const auto kernel = prepare.cache.type == CacheType::kHalf ? prepare_absorb_kernel<CacheType::kHalf, kUp>
                                                               : prepare_absorb_kernel<CacheType::kE4m3, kUp>;
    backend::check_cuda(launch(kernel, {grid, kFewThreads, kAbsorbSharedBytes}, stream, args), "mla_prepare_absorb");
  });
}

void mla_attention(const MlaAttention& call, void* workspace, cudaStream_t stream) {
  check(call);
  const MlaPrepare& prepare = call.prepare;
  const int rows = prepare.rows.count;
  if (rows <= kDecodeRows && call.attend.max_context <= kDecodeContext && mla_decode_fits(call)) {
    mla_decode(call, stream);
    return;
  }
  if (mla_prepare_absorb_fits(prepare, call.up)) {
    mla_prepare_absorb(prepare, call.up, stream);
  } else {
    mla_prepare(prepare, stream);
    mla_absorb(call.up, prepare.q_nope, rows, prepare.q_full, call.attend.key_dim, stream);
  }
  mla_attend_unfold(call.up, call.attend, workspace, call.out, call.ldo, stream);
}

}  // namespace fairway::kernels::cuda
