// The value half of kv_b_proj for one row of one head, its outputs shared by the CTAs of a cluster.
#pragma once

#include <cuda_fp16.h>

#include "kernels/attention_mla/cuda/four_weights.cuh"
#include "kernels/attention_mla/cuda/mla_projection.cuh"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/reduce.cuh"

namespace fairway::kernels::cuda {

constexpr int kOneCluster = 8;  // CTAs of a head
constexpr int kOneWarps = 8, kOneThreads = 32 * kOneWarps;
constexpr int kOneLatent = 512, kOneNope = 256, kOneV = 256;  // most of them
// Sizes of GLM-4.7-Flash that code has as constants, with latent kOneLatent and v kOneV.
constexpr int kUsualNope = 192, kUsualRope = 64;
inline bool has_usual_sizes(const MlaUpProjection& up) {
  return up.latent == kOneLatent && up.nope == kUsualNope && up.v == kOneV;
}
__device__ __forceinline__ void set_usual_sizes(MlaUpProjection& up) {
  up.latent = kOneLatent, up.nope = kUsualNope, up.v = kOneV;
}

// Whether kernels of one row and head a cluster can have them. A head's latents are shared in fours.
inline bool one_row_fits(const MlaUpProjection& up) {
  return gpu_features().clusters && up.latent <= kOneLatent && up.nope <= kOneNope && up.v <= kOneV &&
         up.latent % (4 * kOneCluster) == 0 && up.v % kOneCluster == 0;
}

// Outputs of a CTA, rank * v / kOneCluster and the next ones. Their weights lie together, and come into shared memory
// while the kernel ahead still runs, but for those of a warp's last kHeldRows outputs, which hold() brings into
// registers: for kernels that have to leave shared memory to others.
template <UpWeight kType, int kHeldRows = 0>
class UnfoldOne {
  using Four = FourWeights<kType>;
  static constexpr int kRows = kOneV / kOneCluster / kOneWarps;  // of a warp, most
  static constexpr int kStagedRows = kRows - kHeldRows;
  static constexpr int kSteps = kOneLatent / 4 / 32;  // of a lane in a row, most

 public:
  static constexpr int kBytes = kStagedRows * kOneWarps * kOneLatent * up_weight_bytes(kType);  // in shared memory
  using Held = Four[kHeldRows > 0 ? kHeldRows : 1][kSteps];

  // weights: 16-byte aligned shared memory. One thread calls it, for a barrier of which it is the only arrival.
  __device__ static __forceinline__ void load(const MlaUpProjection& up, int head, int rank, unsigned char* weights,
                                              std::uint64_t* bar) {
    const int row_bytes = up.latent * up_weight_bytes(kType);
    const int bytes = min(up.v / kOneCluster, kStagedRows * kOneWarps) * row_bytes;
    barrier_expect(bar, bytes);
    bulk_load_once(weights, static_cast<const unsigned char*>(up.weights) + first_row(up, head, rank) * row_bytes,
                   bytes, bar);
  }

  // Warp w has outputs w + kOneWarps * i.
  __device__ __forceinline__ UnfoldOne(const MlaUpProjection& up, int head, int rank)
      : count_(up.v / kOneCluster),
        words_(up.latent / 4),
        row_(static_cast<int>(threadIdx.x / 32 + kOneWarps * (threadIdx.x % 32 * kRows / 32))),
        scale_(row_ < count_ ? Four::scale(up, first_row(up, head, rank) + row_) : 0.0f),
        at_(static_cast<long long>(head) * up.v + rank * count_ + row_) {}

  __device__ __forceinline__ void hold(const MlaUpProjection& up, int head, int rank, Held& held) const {
    const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32 % kOneWarps);
    const auto* const from = static_cast<const Four*>(up.weights) + first_row(up, head, rank) * words_;
    if (words_ == 32 * kSteps && count_ == kRows * kOneWarps) {  // where that is known, only this is left
      const Four* const mine = from + (warp * words_ + lane);
#pragma unroll
      for (int i = 0; i < kHeldRows; ++i) {
#pragma unroll
        for (int k = 0; k < kSteps; ++k) held[i][k] = mine[kOneWarps * (kStagedRows + i) * words_ + 32 * k];
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < kHeldRows; ++i) {
      const int row = min(warp + kOneWarps * (kStagedRows + i), count_ - 1);
#pragma unroll
      for (int k = 0; k < kSteps; ++k) held[i][k] = from[row * words_ + min(lane + 32 * k, words_ - 1)];
    }
  }

  // x: [latent], in shared memory, 16-byte aligned. out: of the row. held: by hold(), if any rows are.
  __device__ __forceinline__ void run(const unsigned char* weights, const float* x, __half* out,
                                      [[maybe_unused]] const Held& held = {}) const {
    const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32 % kOneWarps);
    const auto* const from = reinterpret_cast<const Four*>(weights);
    float dot[kRows] = {}, shift = 0;
    const auto step = [&](int word) {
      const float4 v = reinterpret_cast<const float4*>(x)[word];
      shift += (v.x + v.y) + (v.z + v.w);
#pragma unroll
      for (int i = 0; i < kStagedRows; ++i) {
        const int row = min(warp + kOneWarps * i, count_ - 1);
        from[row * words_ + word].add(dot[i], v);
      }
      return v;
    };
    if constexpr (kHeldRows > 0) {
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        if (lane + 32 * k >= words_) break;
        const float4 v = step(lane + 32 * k);
#pragma unroll
        for (int i = 0; i < kHeldRows; ++i) held[i][k].add(dot[kStagedRows + i], v);
      }
    } else {
#pragma unroll 1
      for (int word = lane; word < words_; word += 32) step(word);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) Four::finish(dot[i], shift);
    const float sum = spread_sum(dot);
    if (lane % (32 / kRows) == 0 && row_ < count_) out[at_] = __float2half_rn(sum * scale_);
  }

 private:
  __device__ static __forceinline__ long long first_row(const MlaUpProjection& up, int head, int rank) {
    return static_cast<long long>(head) * (up.nope + up.v) + up.nope + rank * (up.v / kOneCluster);
  }

  int count_, words_;
  int row_;  // whose sum this lane gets
  float scale_;
  long long at_;
};

}  // namespace fairway::kernels::cuda
