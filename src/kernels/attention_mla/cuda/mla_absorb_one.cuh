// The key half of kv_b_proj for one row of one head, its latents shared by the CTAs of a cluster.
#pragma once

#include "kernels/attention_mla/cuda/four_weights.cuh"
#include "kernels/attention_mla/cuda/mla_projection.cuh"
#include "kernels/attention_mla/cuda/mla_unfold_one.cuh"

namespace fairway::kernels::cuda {

constexpr int kOneSlice = kOneLatent / kOneCluster;  // latents of a CTA, most

struct AbsorbOneMemory {
  float scaled[kOneNope];             // the query before kv_b_proj, times the scales of that
  float parts[kOneWarps][kOneSlice];  // of the absorbed query
};

// The CTA's slice of the query's latents. Lane pair l, l + 16 of warp w: word l of the slice, rows 2 w, 2 w + 1, then
// every 16th. kNope: what nope is, or 0 for anything; where it is known, each lane has neighbouring rows. kTakes: it
// reads its part of the query itself, by take_query().
template <UpWeight kUp, int kNope = 0, bool kTakes = (kNope > 0)>
class AbsorbOne {
  using Four = FourWeights<kUp>;

 public:
  __device__ __forceinline__ AbsorbOne(const MlaUpProjection& up, int head)
      : nope_(kNope > 0 ? kNope : up.nope),
        slice_(up.latent / kOneCluster),
        row0_(static_cast<long long>(head) * (up.nope + up.v)) {}

  // The weights into registers.
  __device__ __forceinline__ void load(const MlaUpProjection& up, int rank) {
    const int word = static_cast<int>(threadIdx.x % 16), group = static_cast<int>(threadIdx.x / 16);
    const Four* from = words_of(up, rank) + (kNope > 0 ? kRows : 1) * group * (up.latent / 4);
    const int step = (kNope > 0 ? 1 : 16) * (up.latent / 4);
    const int rows = 4 * word >= slice_ ? 0 : kNope > 0 ? kNope : nope_ - group;
#pragma unroll
    for (int k = 0; k < kRows; ++k, from += step) words_[k] = 16 * k < rows ? *from : Four{};
  }
  // What the lane's elements of the query are multiplied by, `factor` with it.
  __device__ __forceinline__ void load_scales(const MlaUpProjection& up, float factor) {
    static_assert(kTakes);
#pragma unroll
    for (int k = 0; k < kRows / 4; ++k) {
      const float4 s = Four::four_scales(up, row0_ + first_row() + 4 * k);
      scales_[k] = make_float4(s.x * factor, s.y * factor, s.z * factor, s.w * factor);
    }
  }
  // q: the head's query, 16-byte aligned. These loads stay in front of those that follow.
  __device__ __forceinline__ void take_query(const float* q) {
    static_assert(kTakes);
#pragma unroll
    for (int k = 0; k < kRows / 4; ++k) {
      query_[k] = load_shared_floats(reinterpret_cast<const float4*>(q + first_row() + 4 * k));
    }
  }
  // Makes floats of the weights, while the query is on its way.
  __device__ __forceinline__ void expand() {
    static_assert(kTakes);
#pragma unroll
    for (int k = 0; k < kRows; ++k) weights_[k] = words_[k].shifted_floats();
  }

  // What element n < nope of a head's query is multiplied by.
  __device__ __forceinline__ float scale(const MlaUpProjection& up, int n) const {
    return Four::scale(up, row0_ + n);
  }

  // memory.scaled is there for all threads, or the query has been taken. Leaves what sum() adds up, behind a barrier.
  __device__ __forceinline__ void multiply(AbsorbOneMemory& memory) const {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = threadIdx.x / 16;
    float sum[4] = {}, shift = 0;
    if constexpr (kNope > 0 && !kTakes) {
#pragma unroll
      for (int k = 0; k < kRows; k += 4) {
        const float4 q = *reinterpret_cast<const float4*>(memory.scaled + first_row() + k);
        const float x[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          words_[k + i].add(sum, x[i]);
          shift += x[i];
        }
      }
    } else if constexpr (kNope > 0) {
#pragma unroll
      for (int k = 0; k < kRows; k += 4) {
        const float4 q = query_[k / 4], s = scales_[k / 4];
        const float x[4] = {q.x * s.x, q.y * s.y, q.z * s.z, q.w * s.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float4 w = weights_[k + i];
          shift += x[i];
          sum[0] = fmaf(w.x, x[i], sum[0]);
          sum[1] = fmaf(w.y, x[i], sum[1]);
          sum[2] = fmaf(w.z, x[i], sum[2]);
          sum[3] = fmaf(w.w, x[i], sum[3]);
        }
      }
    } else {
#pragma unroll
      for (int k = 0; k < kRows; ++k) {
        if (16 * k >= nope_) break;
        const float x = memory.scaled[group + 16 * k];
        words_[k].add(sum, x);
        shift += x;
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      Four::finish(sum[j], shift);
      sum[j] += __shfl_xor_sync(0xFFFFFFFFu, sum[j], 16);
    }
    if (lane < 16) {
      *reinterpret_cast<float4*>(&memory.parts[warp][4 * lane]) = make_float4(sum[0], sum[1], sum[2], sum[3]);
    }
    __syncthreads();
  }

  // Latents 4 * word .. of the slice, 4 * word < slice(), times `factor`.
  __device__ static __forceinline__ float4 sum(const AbsorbOneMemory& memory, int word, float factor) {
    float4 all = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int w = 0; w < kOneWarps; ++w) {
      const float4 v = *reinterpret_cast<const float4*>(&memory.parts[w][4 * word]);
      all.x += v.x, all.y += v.y, all.z += v.z, all.w += v.w;
    }
    all.x *= factor, all.y *= factor, all.z *= factor, all.w *= factor;
    return all;
  }
  __device__ __forceinline__ int slice() const {
    return slice_;
  }

 private:
  static constexpr int kRows = (kNope > 0 ? kNope : kOneNope) / 16;
  static_assert(kNope % 64 == 0);

  // Of the thread, where kNope is known.
  __device__ __forceinline__ static int first_row() {
    return static_cast<int>(threadIdx.x / 16) * kRows;
  }
  // Of the thread's row 0.
  __device__ __forceinline__ const Four* words_of(const MlaUpProjection& up, int rank) const {
    return static_cast<const Four*>(up.weights) + (row0_ * up.latent + rank * slice_) / 4 + threadIdx.x % 16;
  }

  int nope_, slice_;
  long long row0_;  // the head's first stored row
  Four words_[kRows];
  float4 weights_[kNope > 0 ? kRows : 1], query_[kRows / 4], scales_[kRows / 4];
};

}  // namespace fairway::kernels::cuda
