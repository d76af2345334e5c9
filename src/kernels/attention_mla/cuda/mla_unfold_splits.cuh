// The value half of kv_b_proj for a few rows, straight from what the splits of attention left. A cluster for every row
// and head: each CTA merges its slice of the latents, sends it to the others, and has its share of the outputs.
#pragma once

#include <cuda_fp16.h>

#include "kernels/attention_mla/cuda/mla_projection.cuh"
#include "kernels/attention_mla/cuda/mla_unfold_one.cuh"
#include "kernels/common/cuda/attend_args.cuh"
#include "kernels/common/cuda/hidden.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/reduce.cuh"

namespace fairway::kernels::cuda {

constexpr int kSplitsPieces = kOneLatent / kOneCluster / 8;  // of 8 latents, of a CTA, most
constexpr int kSplitsGroups = kOneThreads / kSplitsPieces;   // of threads that share the splits
constexpr int kWarpGroups = 32 / kSplitsPieces;
static_assert(kSplitsGroups == 32);  // the lanes of a warp know the weights of all groups' splits
// Two CTAs of this kernel have room on an SM beside one of attend_latent.cuh, and so start before that one ends, if
// they keep no more than half of the weights in shared memory as halves.
template <UpWeight kType>
using SplitsUnfold = UnfoldOne<kType, kType == UpWeight::kHalf ? 2 : 0>;
constexpr int kSplitsBatch = 5;  // splits of a thread that are under way at a time: a few more than 4 * kSplitsGroups
constexpr int kSplitsTurn = kSplitsBatch * kSplitsGroups;

template <UpWeight kType>
struct alignas(16) SplitsMemory {
  std::uint64_t weights_there, latent_sent;  // barriers
  unsigned char weights[SplitsUnfold<kType>::kBytes];
  float parts[kOneWarps][kOneLatent / kOneCluster];
  float latent[kOneLatent];
};

// kUsual: nope is kUsualNope, latent kOneLatent and v kOneV.
template <UpWeight kType, bool kUsual>
class SplitsCta {
 public:
  __device__ SplitsCta(const MlaUpProjection& up, const AttendArgs& args)
      : up_(up),
        args_(args),
        memory_(*dynamic_shared<SplitsMemory<kType>>()),
        warp_(static_cast<int>(threadIdx.x / 32)),
        lane_(static_cast<int>(threadIdx.x % 32)),
        rank_(static_cast<int>(blockIdx.x % kOneCluster)),
        head_(static_cast<int>(blockIdx.x / kOneCluster)) {
    if (kUsual) set_usual_sizes(up_);
  }

  __device__ void run(__half* out, long long ldo) {
    if (threadIdx.x == 0) {
      barrier_init(&memory_.weights_there, 1);
      barrier_init(&memory_.latent_sent, 1);
      barrier_init_fence();
      SplitsUnfold<kType>::load(up_, head_, rank_, memory_.weights, &memory_.weights_there);
      barrier_expect(&memory_.latent_sent, up_.latent * 4);
    }
    __syncwarp();
    cluster_arrive();
    const int row = static_cast<int>(blockIdx.y);
    const int used = attend_used_splits(args_.call.rows.position[row], args_.splits);
    const SplitsUnfold<kType> unfold(up_, head_, rank_);
    typename SplitsUnfold<kType>::Held held;
    unfold.hold(up_, head_, rank_, held);
    Places places;
    find(places, (row * args_.call.heads + head_) * args_.splits, used, 0);
    cluster_wait();  // the others' barriers are initialised
    wait_for_previous_kernel();
    let_next_kernel_start();

    const float inverse = merge(places, (row * args_.call.heads + head_) * args_.splits, used);
    __syncthreads();
    send(inverse);
    barrier_wait(&memory_.weights_there, 0);
    barrier_wait_cluster(&memory_.latent_sent, 0);
    unfold.run(memory_.weights, memory_.latent, out + row * ldo, held);
  }

 private:
  // Where a lane reads in a turn, in bytes from the first: values, and weights of other splits. What is beyond the last
  // split is read from there.
  struct Places {
    unsigned value[kSplitsBatch], weight[kSplitsBatch];
  };
  // first: number of the query's first split. Computed here: else the compiler would do it behind the wait.
  __device__ __forceinline__ void find(Places& places, int first, int used, int begin) const {
    const int piece = min(lane_ % kSplitsPieces, slice() / 8 - 1);
#pragma unroll
    for (int i = 0; i < kSplitsBatch; ++i) {
      const int value = first + min(begin + i * kSplitsGroups + group(), used - 1);
      const int weight = first + min(begin + i * kSplitsGroups + lane_, used - 1);
      places.value[i] = static_cast<unsigned>(hidden(2 * (value * up_.latent + rank_ * slice() + 8 * piece)));
      places.weight[i] = static_cast<unsigned>(hidden(4 * weight));
    }
  }

  __device__ __forceinline__ int group() const {
    return warp_ * kWarpGroups + lane_ / kSplitsPieces;
  }
  __device__ __forceinline__ int slice() const {
    return up_.latent / kOneCluster;
  }

  // Lane l has piece l % 8 of the slice, and splits of its group: every kSplitsGroups-th. A warp knows all weights, so
  // that what the warps leave needs only to be added up. Returns 1 / sum of all factors.
  __device__ __forceinline__ float merge(Places& places, int first, int used) const {
    const auto* const partial = reinterpret_cast<const unsigned char*>(args_.partial);
    const auto* const weights = reinterpret_cast<const unsigned char*>(args_.weights);
    float most = -__builtin_huge_valf(), total = 0, sum[8] = {};
#pragma unroll 1
    for (int begin = 0;;) {
      float4 values[kSplitsBatch];  // halves
      float weight[kSplitsBatch];
#pragma unroll
      for (int i = 0; i < kSplitsBatch; ++i) weight[i] = *reinterpret_cast<const float*>(weights + places.weight[i]);
#pragma unroll
      for (int i = 0; i < kSplitsBatch; ++i) {
        values[i] = load_shared_floats(reinterpret_cast<const float4*>(partial + places.value[i]));
      }
      float reference = most;
#pragma unroll
      for (int i = 0; i < kSplitsBatch; ++i) {
        if (begin + i * kSplitsGroups + lane_ >= used) weight[i] = -__builtin_huge_valf();
        reference = fmaxf(reference, weight[i]);
      }
      for (int d = 1; d < 32; d *= 2) reference = fmaxf(reference, __shfl_xor_sync(0xFFFFFFFFu, reference, d));
      if (begin > 0) scale(sum, total, power_of_two(most - reference));
      most = reference;
#pragma unroll
      for (int i = 0; i < kSplitsBatch; ++i) {
        weight[i] = power_of_two(weight[i] - most);
        total += weight[i];
      }
#pragma unroll
      for (int i = 0; i < kSplitsBatch; ++i) {
        const float factor = __shfl_sync(0xFFFFFFFFu, weight[i], group());
        const float words[4] = {values[i].x, values[i].y, values[i].z, values[i].w};
#pragma unroll
        for (int w = 0; w < 4; ++w) {
          const float2 v = __half22float2(*reinterpret_cast<const __half2*>(&words[w]));
          sum[2 * w] = fmaf(factor, v.x, sum[2 * w]);
          sum[2 * w + 1] = fmaf(factor, v.y, sum[2 * w + 1]);
        }
      }
      begin += kSplitsTurn;
      if (begin >= used) break;
      find(places, first, used, begin);
    }
    total = warp_sum(total);
    for (int d = kSplitsPieces; d < 32; d *= 2) {
#pragma unroll
      for (float& v : sum) v += __shfl_xor_sync(0xFFFFFFFFu, v, d);
    }
    if (lane_ < slice() / 8) {
      auto* const to = reinterpret_cast<float4*>(&memory_.parts[warp_][8 * lane_]);
      to[0] = make_float4(sum[0], sum[1], sum[2], sum[3]);
      to[1] = make_float4(sum[4], sum[5], sum[6], sum[7]);
    }
    return __fdividef(1.0f, total);
  }

  __device__ static __forceinline__ void scale(float (&sum)[8], float& total, float factor) {
    total *= factor;
#pragma unroll
    for (float& v : sum) v *= factor;
  }

  // Four latents to one CTA by each thread.
  __device__ __forceinline__ void send(float inverse) const {
    const int word = static_cast<int>(threadIdx.x % 16), to = static_cast<int>(threadIdx.x / 16);
    if (to >= kOneCluster || 4 * word >= slice()) return;
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int w = 0; w < kOneWarps; ++w) {
      const float4 v = *reinterpret_cast<const float4*>(&memory_.parts[w][4 * word]);
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    sum.x *= inverse, sum.y *= inverse, sum.z *= inverse, sum.w *= inverse;
    send_to_cluster(reinterpret_cast<float4*>(&memory_.latent[rank_ * slice() + 4 * word]), &memory_.latent_sent, to,
                    sum);
  }

  MlaUpProjection up_;
  const AttendArgs& args_;
  SplitsMemory<kType>& memory_;
  const int warp_, lane_, rank_, head_;
};

template <UpWeight kType, bool kUsual>
__global__ void __launch_bounds__(kOneThreads)
    unfold_splits_kernel(const __grid_constant__ MlaUpProjection up, const __grid_constant__ AttendArgs args,
                         __half* out, long long ldo) {
  if constexpr (kCodeHasClusters) {
    SplitsCta<kType, kUsual>(up, args).run(out, ldo);
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
