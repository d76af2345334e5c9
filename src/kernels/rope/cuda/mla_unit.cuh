// What a row of latent attention is made of before kv_b_proj: the parts of its cache row and the rotated part of a head
// of its query, each by a warp.
#pragma once

#include "kernels/common/cuda/cache_write.cuh"
#include "kernels/common/cuda/chunk.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/reduce.cuh"
#include "kernels/rope/cuda/rope_cuda.cuh"
#include "kernels/rope/cuda/rotation.cuh"

namespace fairway::kernels::cuda {

// The norm of a row's latent. The first elements are in a lane's registers, so that they may be loaded early: all of
// 512.
class LatentNorm {
 public:
  static constexpr int kHeld = 16;

  // kv: [latent].
  __device__ __forceinline__ void load(const MlaPrepare& a, const float* kv) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int j = 0; j < kHeld; ++j) held_[j] = lane + 32 * j < a.latent ? kv[lane + 32 * j] : 0.0f;
  }
  // weight(j): of element lane + 32 * j, j < kHeld. Element i of the result goes to store(i, result).
  template <class Weight, class Store>
  __device__ __forceinline__ void run(const MlaPrepare& a, const float* kv, const Weight& weight,
                                      const Store& store) const {
    const int lane = threadIdx.x & 31;
    float sum = 0;
#pragma unroll
    for (const float v : held_) sum = fmaf(v, v, sum);
    for (int i = lane + 32 * kHeld; i < a.latent; i += 32) sum = fmaf(kv[i], kv[i], sum);
    const float scale = rms_factor(warp_sum(sum), a.latent, a.eps);
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      if (lane + 32 * j < a.latent) store(lane + 32 * j, held_[j] * scale * weight(j));
    }
    for (int i = lane + 32 * kHeld; i < a.latent; i += 32) store(i, kv[i] * scale * a.kv_norm[i]);
  }

 private:
  float held_[kHeld];
};

// Waits for the previous kernel. Unit `heads` of row r is its cache row, the others are heads of the query: their
// rotated part, and with kNope the other one as halves.
template <CacheType kType, bool kNope>
__device__ __forceinline__ void prepare_mla_unit(const MlaPrepare& a, long long r, int unit) {
  const int rope = a.angles.dim, position = a.rows.position[r], sequence = a.rows.sequence[r];
  Rotation rotation(a.angles, position);
  float weight[LatentNorm::kHeld] = {};
  if (unit == a.heads) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int j = 0; j < LatentNorm::kHeld; ++j) weight[j] = lane + 32 * j < a.latent ? a.kv_norm[lane + 32 * j] : 0.0f;
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (unit > a.heads) return;
  if (unit < a.heads) {
    const float* const q = a.q + r * a.ldq + static_cast<long long>(unit) * (a.nope + rope);
    __half* const q_rope = a.q_full + (r * a.heads + unit) * (a.latent + rope) + a.latent;
    const auto rotated = [&](int i) { return q[a.nope + i]; };
    rotation.load(rotated);
    rotation.rotate(rotated, [&](int i, float v) { q_rope[i] = saturated_half(v); });
    if constexpr (kNope) {
      __half* const q_nope = a.q_nope + (r * a.heads + unit) * a.nope;
      copy_elements<8>(
          a.nope, [&](int i) { return q[i]; }, [&](int i, float v) { q_nope[i] = saturated_half(v); });
    }
    return;
  }
  const float* const kv = a.kv + r * a.ldkv;
  const CacheRow<kType> row(a.cache, sequence, position);
  const auto rotated = [&](int i) { return kv[a.latent + i]; };
  rotation.load(rotated);
  LatentNorm norm;
  norm.load(a, kv);
  rotation.rotate(rotated, [&](int i, float v) { row.store(a.latent + i, v); });
  norm.run(
      a, kv, [&](int j) { return weight[j]; }, [&](int i, float v) { row.store(i, v); });
}

}  // namespace fairway::kernels::cuda
