// Which launches a step's latent attention takes.
#include <algorithm>
#include <string>
#include <type_traits>

#include "backend/cuda/check.cuh"
#include "codec/trellis.h"
#include "fairway/error.h"
#include "kernels/attention_mla/cuda/mla_decode.cuh"
#include "kernels/attention_mla/cuda/mla_decode_kernel.cuh"
#include "kernels/attention_mla/cuda/mla_prepare_absorb.cuh"
#include "kernels/attention_mla/cuda/mla_query_absorb.cuh"
#include "kernels/common/cuda/chunk.cuh"
#include "kernels/common/cuda/launch.cuh"

namespace fairway::kernels::cuda {
namespace {

// Above these the positions are read too often: by every head.
constexpr int kDecodeRows = 1, kDecodeContext = 1024;
// Above this nothing was measured. Up to it attention's CTAs ask for the cache later behind mla_query_absorb(), of
// which an SM gets two, and a launch less is worth more. On an H200 with 20 heads.
constexpr int kQueryContext = 32768;
constexpr int kMaxPrepareCtas = 160;  // about as many as run beside those that absorb

void require_same(int a, int b, const char* what) {
  if (a == b) return;
  throw Error(ErrorKind::kUsage, std::string("CUDA latent attention: ") + what + " " + std::to_string(a) +
                                     ", expected " + std::to_string(b));
}

bool projects(const MlaAttention& call) {
  return call.query.norm.x != nullptr;
}

// What the numbers of a query's linear layer have to be.
bool query_is_legal(const MlaAttention& call) {
  const MlaQuery& query = call.query;
  const int width = call.prepare.nope + call.prepare.angles.dim;
  return projects(call) && call.prepare.rows.count == 1 && query.norm.add == nullptr && query.norm.sum == nullptr &&
         linear_norm_legal(query.norm, query.in) && query.in % kBand == 0 && query.in <= kQueryBlocks * kBand &&
         width % kBand == 0 && width <= kQueryHead && query.matrix.bits >= 1 && query.matrix.bits <= 8 &&
         query.matrix.codebook == static_cast<int>(codec::Codebook::kMul1) && is_aligned(query.matrix.words) &&
         is_aligned(query.matrix.suh, 8) && is_aligned(query.matrix.svh, 8);
}

// Of GLM-4.7-Flash, for which there is code with constants.
bool is_usual(const MlaAttention& call) {
  return has_usual_sizes(call.up) && call.prepare.angles.dim == kUsualRope;
}

void check(const MlaAttention& call) {
  const MlaUpProjection& up = call.up;
  if (projects(call) && !query_is_legal(call)) {
    throw Error(ErrorKind::kUsage, "CUDA latent attention: it cannot have a linear layer of " +
                                       std::to_string(call.query.in) + " inputs and " +
                                       std::to_string(call.query.matrix.bits) + " bits for its queries");
  }
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
  return !projects(call) && one_row_fits(call.up) && key <= kDecodeKey && key % kCachePiece == 0 &&
         call.prepare.rows.count <= 65535 && call.prepare.ldkv % 4 == 0 && is_aligned(call.prepare.kv) &&
         (call.prepare.rows.count == 1 || !call.attend.one_sequence);
}

bool mla_query_fits(const MlaAttention& call) {
  return call.attend.max_context > kDecodeContext && call.attend.max_context <= kQueryContext &&
         mla_query_absorb_fits(call);
}

bool mla_query_absorb_fits(const MlaAttention& call) {
  const MlaPrepare& prepare = call.prepare;
  return query_is_legal(call) && one_row_fits(call.up) && is_aligned(prepare.q_full) &&
         (call.up.latent + prepare.angles.dim) % 4 == 0;
}

void mla_query_absorb(const MlaAttention& call, cudaStream_t stream) {
  check(call);
  const MlaPrepare& prepare = call.prepare;
  const dim3 grid(static_cast<unsigned>((prepare.heads + 1) * kOneCluster));
  const QueryAbsorb args{call.query, prepare, call.up};
  with_up_weight(call.up.type, [&](auto type) {
    constexpr UpWeight kUp = decltype(type)::value;
    const auto of_type = [&](auto usual) {
      constexpr bool kUsual = decltype(usual)::value;
      return prepare.cache.type == CacheType::kHalf ? query_absorb_kernel<CacheType::kHalf, kUp, kUsual>
                                                    : query_absorb_kernel<CacheType::kE4m3, kUp, kUsual>;
    };
    const auto kernel = is_usual(call) ? of_type(std::true_type{}) : of_type(std::false_type{});
    // As the attention behind it has it: an SM cannot divide its memory anew while this kernel runs on it.
    backend::check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                             cudaFuncAttributePreferredSharedMemoryCarveout, 100),
                        "mla_query_absorb");
    const LaunchShape shape{grid, kOneThreads, query_absorb_bytes(call.query), kOneCluster};
    backend::check_cuda(launch(kernel, shape, stream, args), "mla_query_absorb");
  });
}

void mla_decode(const MlaAttention& call, cudaStream_t stream) {
  check(call);
  require_same(projects(call) ? 1 : 0, 0, "linear layers of the queries");
  const MlaPrepare& prepare = call.prepare;
  const dim3 grid(static_cast<unsigned>(prepare.heads * kOneCluster), static_cast<unsigned>(prepare.rows.count));
  const MlaDecodeArgs args{prepare, call.up, call.attend.scale * kLog2E, call.out, call.ldo};
  with_up_weight(call.up.type, [&](auto type) {
    constexpr UpWeight kUp = decltype(type)::value;
    const bool usual = is_usual(call) && is_aligned(call.up.scales) && is_aligned(prepare.q) && prepare.ldq % 4 == 0;
    const bool halves = prepare.cache.type == CacheType::kHalf;
    const auto kernel =
        usual
            ? (halves ? mla_decode_kernel<CacheType::kHalf, kUp, true> : mla_decode_kernel<CacheType::kE4m3, kUp, true>)
            : (halves ? mla_decode_kernel<CacheType::kHalf, kUp, false>
                      : mla_decode_kernel<CacheType::kE4m3, kUp, false>);
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
  if (projects(call)) {
    mla_query_absorb(call, stream);
  } else if (mla_prepare_absorb_fits(prepare, call.up)) {
    mla_prepare_absorb(prepare, call.up, stream);
  } else {
    mla_prepare(prepare, stream);
    mla_absorb(call.up, prepare.q_nope, rows, prepare.q_full, call.attend.key_dim, stream);
  }
  mla_attend_unfold(call.up, call.attend, workspace, call.out, call.ldo, stream);
}

}  // namespace fairway::kernels::cuda
