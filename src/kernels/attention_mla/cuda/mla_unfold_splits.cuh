// The value half of kv_b_proj for a few rows, straight from what the splits of attention left. A cluster for every row
// and head: each CTA merges its slice of the latents, sends it to the others, and has its share of the outputs.
#pragma once

#include <cuda_fp16.h>

#include "kernels/attention_mla/cuda/mla_projection.cuh"
#include "kernels/attention_mla/cuda/mla_unfold_one.cuh"
#include "kernels/common/cuda/attend_args.cuh"
#include "kernels/common/cuda/attend_merge.cuh"
#include "kernels/common/cuda/hopper.cuh"

namespace fairway::kernels::cuda {

constexpr int kSplitsPieces = kOneLatent / kOneCluster / 8;  // of 8 latents, of a CTA, most
constexpr int kSplitsGroups = kOneThreads / kSplitsPieces;   // of threads that share the splits
// Two CTAs of this kernel have room on an SM beside one of attend_latent.cuh, and so start before that one ends, if
// they keep no more than half of the weights in shared memory as halves.
template <UpWeight kType>
using SplitsUnfold = UnfoldOne<kType, kType == UpWeight::kHalf ? 2 : 0>;
constexpr int kSplitsBatch = 5;  // splits of a thread that are under way at a time: a few more than 4 * kSplitsGroups

template <UpWeight kType>
struct alignas(16) SplitsMemory {
  std::uint64_t weights_there, latent_sent;  // barriers
  unsigned char weights[SplitsUnfold<kType>::kBytes];
  float parts[kOneWarps][kOneLatent / kOneCluster];
  float2 statistics[kOneWarps];  // of parts: largest weight, sum of factors
  float latent[kOneLatent];
};

template <UpWeight kType>
class SplitsCta {
 public:
  __device__ SplitsCta(const MlaUpProjection& up, const AttendArgs& args)
      : up_(up),
        args_(args),
        memory_(*dynamic_shared<SplitsMemory<kType>>()),
        thread_(static_cast<int>(threadIdx.x)),
        rank_(static_cast<int>(blockIdx.x) % kOneCluster),
        head_(static_cast<int>(blockIdx.x) / kOneCluster) {}

  __device__ void run(__half* out, long long ldo) {
    if (thread_ == 0) {
      barrier_init(&memory_.weights_there, 1);
      barrier_init(&memory_.latent_sent, 1);
      barrier_init_fence();
      SplitsUnfold<kType>::load(up_, head_, rank_, memory_.weights, &memory_.weights_there);
      barrier_expect(&memory_.latent_sent, up_.latent * 4);
    }
    __syncwarp();
    cluster_arrive();
    const SplitsUnfold<kType> unfold(up_, head_, rank_);
    unfold.prefetch_held(up_, head_, rank_);
    const int row = static_cast<int>(blockIdx.y);
    const int used = attend_used_splits(args_.call.rows.position[row], args_.splits);
    wait_for_previous_kernel();
    let_next_kernel_start();
    cluster_wait();  // the others' barriers are initialised

    merge(static_cast<long long>(row) * args_.call.heads + head_, used);
    __syncthreads();
    send();
    typename SplitsUnfold<kType>::Held held;
    unfold.hold(up_, head_, rank_, held);  // they come while the latents do
    barrier_wait(&memory_.weights_there, 0);
    barrier_wait_cluster(&memory_.latent_sent, 0);
    unfold.run(memory_.weights, memory_.latent, out + row * ldo, held);
  }

 private:
  // Lane l has piece l % 8 of the slice, and splits of its group: every kSplitsGroups-th.
  __device__ __forceinline__ void merge(long long query, int used) const {
    const int lane = thread_ % 32, warp = thread_ / 32, group = thread_ / kSplitsPieces;
    const int slice = up_.latent / kOneCluster, piece = min(lane % kSplitsPieces, slice / 8 - 1);
    const float* const weights = args_.weights + query * args_.splits;
    const __half* const from = args_.partial + query * args_.splits * up_.latent + rank_ * slice + 8 * piece;
    float most = -__builtin_huge_valf(), total = 0, sum[8] = {};
    for (int begin = group; begin < used; begin += kSplitsBatch * kSplitsGroups) {
      uint4 values[kSplitsBatch];
      float weight[kSplitsBatch];
#pragma unroll
      for (int i = 0; i < kSplitsBatch; ++i) {  // what is beyond the last is read from there
        const int split = min(begin + i * kSplitsGroups, used - 1);
        weight[i] = weights[split];
        values[i] = *reinterpret_cast<const uint4*>(from + static_cast<long long>(split) * up_.latent);
      }
      float reference = most;
#pragma unroll
      for (int i = 0; i < kSplitsBatch; ++i) {
        if (begin + i * kSplitsGroups >= used) weight[i] = -__builtin_huge_valf();
        reference = fmaxf(reference, weight[i]);
      }
      scale(sum, total, power_of_two(most - reference));
      most = reference;
#pragma unroll
      for (int i = 0; i < kSplitsBatch; ++i) {
        const float factor = power_of_two(weight[i] - most);
        total += factor;
        const unsigned words[4] = {values[i].x, values[i].y, values[i].z, values[i].w};
#pragma unroll
        for (int w = 0; w < 4; ++w) {
          const float2 v = __half22float2(*reinterpret_cast<const __half2*>(&words[w]));
          sum[2 * w] = fmaf(factor, v.x, sum[2 * w]);
          sum[2 * w + 1] = fmaf(factor, v.y, sum[2 * w + 1]);
        }
      }
    }
    float all = most;
    for (int d = kSplitsPieces; d < 32; d *= 2) all = fmaxf(all, __shfl_xor_sync(0xFFFFFFFFu, all, d));
    if (all > -__builtin_huge_valf()) scale(sum, total, power_of_two(most - all));
    for (int d = kSplitsPieces; d < 32; d *= 2) {
      total += __shfl_xor_sync(0xFFFFFFFFu, total, d);
#pragma unroll
      for (float& v : sum) v += __shfl_xor_sync(0xFFFFFFFFu, v, d);
    }
    if (lane < slice / 8) {
      auto* const to = reinterpret_cast<float4*>(&memory_.parts[warp][8 * lane]);
      to[0] = make_float4(sum[0], sum[1], sum[2], sum[3]);
      to[1] = make_float4(sum[4], sum[5], sum[6], sum[7]);
    }
    if (lane == 0) memory_.statistics[warp] = make_float2(all, total);
  }

  __device__ static __forceinline__ void scale(float (&sum)[8], float& total, float factor) {
    total *= factor;
#pragma unroll
    for (float& v : sum) v *= factor;
  }

  // Four latents to one CTA by each thread.
  __device__ __forceinline__ void send() const {
    const int slice = up_.latent / kOneCluster, word = thread_ % 16, to = thread_ / 16;
    if (to >= kOneCluster || 4 * word >= slice) return;
    float most = -__builtin_huge_valf(), total = 0;
    for (int w = 0; w < kOneWarps; ++w) most = fmaxf(most, memory_.statistics[w].x);
    float4 sum = merge_parts<kOneWarps>(
        most, [&](int w) { return memory_.statistics[w]; },
        [&](int w) { return *reinterpret_cast<const float4*>(&memory_.parts[w][4 * word]); }, total);
    const float inverse = __fdividef(1.0f, total);
    sum.x *= inverse, sum.y *= inverse, sum.z *= inverse, sum.w *= inverse;
    send_to_cluster(reinterpret_cast<float4*>(&memory_.latent[rank_ * slice + 4 * word]), &memory_.latent_sent, to,
                    sum);
  }

  const MlaUpProjection& up_;
  const AttendArgs& args_;
  SplitsMemory<kType>& memory_;
  const int thread_, rank_, head_;
};

template <UpWeight kType>
__global__ void __launch_bounds__(kOneThreads)
    unfold_splits_kernel(const __grid_constant__ MlaUpProjection up, const __grid_constant__ AttendArgs args,
                         __half* out, long long ldo) {
  if constexpr (kCodeHasClusters) {
    SplitsCta<kType>(up, args).run(out, ldo);
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
