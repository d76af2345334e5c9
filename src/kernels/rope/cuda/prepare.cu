// mla_prepare and gqa_prepare: one warp for every head of a row, and for what the row puts into the cache.
#include <algorithm>
#include <string>

#include "backend/cuda/check.cuh"
#include "fairway/error.h"
#include "kernels/common/cuda/cache_write.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/rope/cuda/mla_unit.cuh"
#include "kernels/rope/cuda/prepare_head.cuh"
#include "kernels/rope/cuda/rope_cuda.cuh"
#include "kernels/rope/cuda/rotation.cuh"

namespace fairway::kernels::cuda {
namespace {

// Few warps a CTA, so that one row of a decode step spreads over the device.
constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;

template <CacheType kType>
__global__ void __launch_bounds__(kThreads) mla_prepare_kernel(const __grid_constant__ MlaPrepare a) {
  prepare_mla_unit<kType, true>(a, blockIdx.y,
                                static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x >> 5));
}

// Units of a row: heads of the query, then of the keys, then of the values.
template <CacheType kType>
__global__ void __launch_bounds__(kThreads) gqa_prepare_kernel(const __grid_constant__ GqaPrepare a) {
  const int unit = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x >> 5);
  const long long r = blockIdx.y;
  const int position = a.rows.position[r], sequence = a.rows.sequence[r];
  Rotation rotation(a.angles, position);
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (unit >= a.heads + 2 * a.kv_heads) return;
  if (unit < a.heads) {
    __half* const out = a.q_out + (r * a.heads + unit) * a.dim;
    prepare_head(a, rotation, a.q + r * a.ldq + static_cast<long long>(unit) * a.dim, a.q_norm,
                 [&](int i, float v) { out[i] = saturated_half(v); });
    return;
  }
  const CacheRow<kType> row(a.cache, sequence, position);
  const int at = (unit - a.heads) * a.dim;  // in the cache's row
  if (unit < a.heads + a.kv_heads) {
    prepare_head(a, rotation, a.k + r * a.ldk + at, a.k_norm, [&](int i, float v) { row.store(at + i, v); });
  } else {
    const float* const v = a.v + r * a.ldv + (at - a.kv_heads * a.dim);
    copy_elements<4>(
        a.dim, [&](int i) { return v[i]; }, [&](int i, float value) { row.store(at + i, value); });
  }
}

void check(const std::string& name, const RopeAngles& angles, const PassRows& rows, const LayerCache& cache, int heads,
           int elements) {
  using std::to_string;
  if (rows.count < 1 || rows.count > 65535 || heads < 1 || angles.positions < 1 || angles.dim < 0 ||
      angles.dim % 2 != 0) {
    throw Error(ErrorKind::kUsage, name + ": " + to_string(rows.count) + " rows, " + to_string(heads) + " heads, " +
                                       to_string(angles.dim) + " rotated elements, angles of " +
                                       to_string(angles.positions) +
                                       " positions; expected 1 to 65535 rows, an even dimension, 1 position or more");
  }
  if (elements > cache.row_elems || cache.sequence_rows < 1) {
    throw Error(ErrorKind::kUsage, name + ": a cache of " + to_string(cache.sequence_rows) + " rows of " +
                                       to_string(cache.row_elems) + " elements, expected 1 row or more of " +
                                       to_string(elements));
  }
}

void require_strides(bool enough, const std::string& name, long long q, long long kv) {
  if (enough) return;
  throw Error(ErrorKind::kUsage, name + ": row strides " + std::to_string(q) + " (q) and " + std::to_string(kv) +
                                     " (keys and values) are less than a row, or sizes are out of range");
}

LaunchShape shape_of(int units, int rows) {
  return {dim3(static_cast<unsigned>((units + kWarps - 1) / kWarps), static_cast<unsigned>(rows)), kThreads};
}

}  // namespace

void check_mla_prepare(const MlaPrepare& call) {
  check("mla_prepare", call.angles, call.rows, call.cache, call.heads, call.latent + call.angles.dim);
  require_strides(call.nope >= 0 && call.latent >= 1 && call.ldkv >= call.latent + call.angles.dim &&
                      call.ldq >= static_cast<long long>(call.heads) * (call.nope + call.angles.dim),
                  "mla_prepare", call.ldq, call.ldkv);
}

void check_gqa_prepare(const GqaPrepare& call) {
  check("gqa_prepare", call.angles, call.rows, call.cache, call.heads, 2 * call.kv_heads * call.dim);
  const long long kv = static_cast<long long>(call.kv_heads) * call.dim;
  require_strides(call.kv_heads >= 1 && call.dim >= 1 && call.angles.dim <= call.dim && call.ldk >= kv &&
                      call.ldv >= kv && call.ldq >= static_cast<long long>(call.heads) * call.dim,
                  "gqa_prepare", call.ldq, std::min(call.ldk, call.ldv));
}

void mla_prepare(const MlaPrepare& call, cudaStream_t stream) {
  check_mla_prepare(call);
  const auto kernel =
      call.cache.type == CacheType::kHalf ? mla_prepare_kernel<CacheType::kHalf> : mla_prepare_kernel<CacheType::kE4m3>;
  backend::check_cuda(launch(kernel, shape_of(call.heads + 1, call.rows.count), stream, call), "mla_prepare");
}

void gqa_prepare(const GqaPrepare& call, cudaStream_t stream) {
  check_gqa_prepare(call);
  const auto kernel =
      call.cache.type == CacheType::kHalf ? gqa_prepare_kernel<CacheType::kHalf> : gqa_prepare_kernel<CacheType::kE4m3>;
  backend::check_cuda(launch(kernel, shape_of(call.heads + 2 * call.kv_heads, call.rows.count), stream, call),
                      "gqa_prepare");
}

}  // namespace fairway::kernels::cuda
