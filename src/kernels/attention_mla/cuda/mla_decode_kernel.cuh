// All of latent attention between the projections of a row, for one row and head: a cluster of CTAs shares its latents
// for the query, then the positions, then the outputs. What the CTAs owe each other they send twice: the absorbed
// query, and the sums over their positions.
#pragma once

#include <cuda_fp16.h>

#include "kernels/attention_mla/cuda/mla_absorb_one.cuh"
#include "kernels/attention_mla/cuda/mla_projection.cuh"
#include "kernels/attention_mla/cuda/mla_unfold_one.cuh"
#include "kernels/common/cuda/attend_merge.cuh"
#include "kernels/common/cuda/cache_write.cuh"
#include "kernels/common/cuda/chunk.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/lanes_attend.cuh"
#include "kernels/common/cuda/reduce.cuh"
#include "kernels/rope/cuda/rotation.cuh"

namespace fairway::kernels::cuda {

constexpr int kDecodeKey = 576;  // most elements of a key
constexpr int kDecodeBatch = 2;

struct MlaDecodeArgs {
  MlaPrepare prepare;
  MlaUpProjection up;
  float scale_log2;
  __half* out;
  long long ldo;
};

template <UpWeight kUp>
struct alignas(16) DecodeMemory {
  std::uint64_t query_sent, sums_sent;  // barriers
  std::uint64_t weights_there, unused;
  unsigned char weights[UnfoldOne<kUp>::kBytes];
  float4 statistics[kOneCluster];       // of each CTA: largest score, sum of factors
  float query[kDecodeKey];              // [latent | rotated], times the scale of scores
  float sums[kOneCluster][kOneLatent];  // of each CTA
  AbsorbOneMemory absorb;
  float warp_sums[kOneWarps][kOneLatent];  // over a warp's positions
  float2 warp_statistics[kOneWarps];
  float latent[kOneLatent];               // the result in the latent space
  unsigned char new_row[2 * kDecodeKey];  // of the cache
};

template <CacheType kType, UpWeight kUp>
class MlaDecodeCta {
  using Attend = LanesAttend<kType, 32, 3, 2, true, kDecodeBatch>;
  static constexpr int kHeld = kOneLatent / kChunk / 32;

 public:
  __device__ explicit MlaDecodeCta(const MlaDecodeArgs& args)
      : a_(args),
        p_(args.prepare),
        memory_(*dynamic_shared<DecodeMemory<kUp>>()),
        thread_(static_cast<int>(threadIdx.x)),
        rank_(static_cast<int>(blockIdx.x) % kOneCluster),
        head_(static_cast<int>(blockIdx.x) / kOneCluster),
        row_(blockIdx.y) {}

  __device__ void run() {
    const int latent = p_.latent;
    if (thread_ == 0) {
      barrier_init(&memory_.query_sent, 1);
      barrier_init(&memory_.sums_sent, 1);
      barrier_init(&memory_.weights_there, 1);
      barrier_init_fence();
      UnfoldOne<kUp>::load(a_.up, head_, rank_, memory_.weights, &memory_.weights_there);
      barrier_expect(&memory_.query_sent, latent * 4);
      barrier_expect(&memory_.sums_sent, kOneCluster * (latent * 4 + 16));
    }
    __syncwarp();
    cluster_arrive();
    const int position = p_.rows.position[row_], sequence = p_.rows.sequence[row_];
    const int warp = thread_ / 32;
    const bool makes_row = rank_ == kOneCluster - 1 && warp == kOneWarps - 1;
    Attend attend;
    attend.start(cached(sequence, position), rank_ + kOneCluster * warp, kOneCluster * kOneWarps);
    AbsorbOne<kUp> absorb(a_.up, head_);
    absorb.load(a_.up, rank_);
    const float scale = thread_ < p_.nope ? absorb.scale(a_.up, thread_) : 0.0f;
    Rotation rotation(p_.angles, position);
    if (makes_row) {  // the norm's weights, where the result comes later
#pragma unroll 4
      for (int i = thread_ % 32; i < latent; i += 32) memory_.latent[i] = p_.kv_norm[i];
    }
    wait_for_previous_kernel();
    let_next_kernel_start();
    cluster_wait();  // the others' barriers are initialised

    const float* const kv = p_.kv + row_ * p_.ldkv;
    const float* const rotated = makes_row ? kv + latent : q() + p_.nope;
    const auto element = [&](int i) { return rotated[i]; };
    float held[kHeld][kChunk];  // of the new row's latent
    if (makes_row) {
      for (int j = 0; j < kHeld; ++j) load_floats<true>(kv + chunk(j), latent - chunk(j), held[j]);
    }
    if (makes_row || warp == 0) rotation.load(element);
    memory_.absorb.scaled[thread_] = thread_ < p_.nope ? q()[thread_] * scale : 0.0f;
    __syncthreads();
    absorb.multiply(memory_.absorb);
    const int word = thread_ % 16, to = thread_ / 16;
    if (to < kOneCluster && 4 * word < absorb.slice()) {
      send_to_cluster(reinterpret_cast<float4*>(&memory_.query[rank_ * absorb.slice() + 4 * word]), &memory_.query_sent,
                      to, AbsorbOne<kUp>::sum(memory_.absorb, word, a_.scale_log2));
    }
    if (makes_row) {
      const CacheRow<kType> row(memory_.new_row);
      rotation.rotate(element, [&](int i, float v) { row.store(latent + i, v); });
      norm(held, row);
      __syncwarp();
    } else if (warp == 0) {
      rotation.rotate(element, [&](int i, float v) { memory_.query[latent + i] = v * a_.scale_log2; });
    }
    __syncthreads();  // the rotated part of the query is there
    barrier_wait_cluster(&memory_.query_sent, 0);
    attend.run(memory_.query, makes_row ? memory_.new_row : nullptr);
    leave_sums(attend);
    const UnfoldOne<kUp> unfold(a_.up, head_, rank_);
    __syncthreads();
    send_sums();
    barrier_wait_cluster(&memory_.sums_sent, 0);
    merge();
    barrier_wait(&memory_.weights_there, 0);
    __syncthreads();
    unfold.run(memory_.weights, memory_.latent, a_.out + row_ * a_.ldo);
    if (rank_ == kOneCluster - 1 && head_ == 0) keep_row(sequence, position);
  }

 private:
  __device__ __forceinline__ const float* q() const {
    return p_.q + row_ * p_.ldq + static_cast<long long>(head_) * (p_.nope + p_.angles.dim);
  }
  // First of a lane's elements j of the latent.
  __device__ static __forceinline__ int chunk(int j) {
    return kChunk * (static_cast<int>(threadIdx.x) % 32 + 32 * j);
  }

  // By the warp that makes the position's own row: its latent, as the cache has it.
  __device__ __forceinline__ void norm(const float (&held)[kHeld][kChunk], const CacheRow<kType>& row) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kHeld * kChunk; ++i)
      sum = fmaf(held[i / kChunk][i % kChunk], held[i / kChunk][i % kChunk], sum);
    const float scale = rms_factor(warp_sum(sum), p_.latent, p_.eps);
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      if (chunk(j) >= p_.latent) break;
      float v[kChunk];
      load_floats<true>(memory_.latent + chunk(j), kChunk, v);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) v[i] *= held[j][i] * scale;
      row.store_chunk(chunk(j), v);
    }
  }

  // The row to the cache, when nobody waits for it.
  __device__ __forceinline__ void keep_row(int sequence, int position) const {
    const CacheRow<kType> row(p_.cache, sequence, position);
    const int words = (p_.latent + p_.angles.dim) / kCachePiece * CachePiece<kType>::kBytes / 8;
    for (int i = thread_; i < words && row.there(); i += kOneThreads) {
      reinterpret_cast<uint2*>(row.data())[i] = reinterpret_cast<const uint2*>(memory_.new_row)[i];
    }
  }

  // What was in the cache before this step.
  __device__ __forceinline__ CachedPositions cached(int sequence, int position) const {
    const LayerCache& cache = p_.cache;
    const bool there = sequence >= 0 && position >= 0 && position < cache.sequence_rows;
    const int row_bytes = cache.row_elems / kCachePiece * CachePiece<kType>::kBytes;
    const auto* const data = static_cast<const unsigned char*>(cache.data);
    return {data + (there ? static_cast<long long>(sequence) * cache.sequence_rows * row_bytes : 0),
            row_bytes,
            0,
            (p_.latent + p_.angles.dim) / kCachePiece,
            p_.latent / kCachePiece,
            there ? position : 0};
  }

  __device__ __forceinline__ void leave_sums(const Attend& attend) const {
    const int lane = thread_ % 32, warp = thread_ / 32;
    for (int j = 0; j < 2; ++j) {
      auto* const to = reinterpret_cast<float4*>(&memory_.warp_sums[warp][kCachePiece * (lane + 32 * j)]);
      const float(&v)[kCachePiece] = attend.sum[j];
      to[0] = make_float4(v[0], v[1], v[2], v[3]);
      to[1] = make_float4(v[4], v[5], v[6], v[7]);
    }
    if (lane == 0) memory_.warp_statistics[warp] = make_float2(attend.most, attend.total);
  }

  // Half of the threads for half of the CTAs each.
  __device__ __forceinline__ void send_sums() const {
    float most = kNoScore, total = 0;
    for (int w = 0; w < kOneWarps; ++w) most = fmaxf(most, memory_.warp_statistics[w].x);
    const float reference = most == kNoScore ? 0.0f : most;
    const int word = thread_ % (kOneThreads / 2), half = thread_ / (kOneThreads / 2);
    const float4 sum = merge_parts<kOneWarps>(
        reference, [&](int w) { return memory_.warp_statistics[w]; },
        [&](int w) { return *reinterpret_cast<const float4*>(&memory_.warp_sums[w][4 * word]); }, total);
    if (4 * word < p_.latent) {
      auto* const to = reinterpret_cast<float4*>(&memory_.sums[rank_][4 * word]);
      for (int i = 0; i < kOneCluster / 2; ++i) {
        send_to_cluster(to, &memory_.sums_sent, half * (kOneCluster / 2) + i, sum);
      }
    }
    if (thread_ < kOneCluster) {
      send_to_cluster(&memory_.statistics[rank_], &memory_.sums_sent, thread_, make_float4(most, total, 0, 0));
    }
  }

  __device__ __forceinline__ void merge() const {
    if (4 * thread_ >= p_.latent) return;
    float most = kNoScore, total = 0;
    for (int c = 0; c < kOneCluster; ++c) most = fmaxf(most, memory_.statistics[c].x);
    const float4 sum = merge_parts<kOneCluster>(
        most, [&](int c) { return make_float2(memory_.statistics[c].x, memory_.statistics[c].y); },
        [&](int c) { return *reinterpret_cast<const float4*>(&memory_.sums[c][4 * thread_]); }, total);
    const float inverse = __fdividef(1.0f, total);
    *reinterpret_cast<float4*>(&memory_.latent[4 * thread_]) =
        make_float4(sum.x * inverse, sum.y * inverse, sum.z * inverse, sum.w * inverse);
  }

  const MlaDecodeArgs& a_;
  const MlaPrepare& p_;
  DecodeMemory<kUp>& memory_;
  const int thread_, rank_, head_;
  const long long row_;
};

template <CacheType kType, UpWeight kUp>
__global__ void __launch_bounds__(kOneThreads, 2) mla_decode_kernel(const __grid_constant__ MlaDecodeArgs args) {
  if constexpr (kCodeHasClusters) {
    MlaDecodeCta<kType, kUp>(args).run();
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
