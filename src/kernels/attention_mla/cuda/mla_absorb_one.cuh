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
// every 16th. The weights wait in shared memory: registers are short when the query is computed.
template <UpWeight kUp>
class AbsorbOne {
  using Four = FourWeights<kUp>;

 public:
  // Of shared memory for the weights.
  __host__ __device__ static constexpr int bytes(int nope) {
    return nope / 16 * kOneThreads * static_cast<int>(sizeof(Four));
  }

  // Asks for the weights.
  __device__ __forceinline__ AbsorbOne(const MlaUpProjection& up, int head, int rank, unsigned char* weights)
      : nope_(up.nope), slice_(up.latent / kOneCluster), words_(reinterpret_cast<Four*>(weights) + threadIdx.x) {
    const int thread = static_cast<int>(threadIdx.x), word = thread % 16;
    const Four* const from =
        static_cast<const Four*>(up.weights) + (first_row(up, head) * up.latent + rank * slice_) / 4 + word;
    for (int row = thread / 16, k = 0; row < nope_ && 4 * word < slice_; row += 16, ++k) {
      copy_async_few<sizeof(Four)>(words_ + k * kOneThreads, from + static_cast<long long>(row) * up.latent / 4);
    }
    copy_async_commit();
  }

  // What element n < nope of a head's query is multiplied by.
  __device__ static __forceinline__ float scale(const MlaUpProjection& up, int head, int n) {
    return Four::scale(up, first_row(up, head) + n);
  }

  // Brings the weights into registers, while something else is waited for.
  __device__ __forceinline__ void take() {
    copy_async_wait<0>();
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (16 * k < nope_) held_[k] = words_[k * kOneThreads];
    }
  }

  // memory.scaled is there for all threads. Leaves what sum() adds up, behind a barrier.
  __device__ __forceinline__ void multiply(AbsorbOneMemory& memory) const {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    float sum[4] = {}, shift = 0;
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (16 * k >= nope_) break;
      const float x = memory.scaled[thread / 16 + 16 * k];
      held_[k].add(sum, x);
      shift += x;
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
  static constexpr int kRows = kOneNope / 16;

  __device__ static __forceinline__ long long first_row(const MlaUpProjection& up, int head) {
    return static_cast<long long>(head) * (up.nope + up.v);
  }

  int nope_, slice_;
  Four* words_;  // [nope / 16], kOneThreads apart: of this thread for itself
  Four held_[kRows];
};

}  // namespace fairway::kernels::cuda
