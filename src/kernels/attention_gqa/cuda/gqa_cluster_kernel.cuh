// A cluster of CTAs has some query heads of one key/value head, for one row: each CTA rotates the queries for itself,
// then they share the positions, which are on their way to shared memory before the kernel ahead has ended, and each
// gets a share of the sums. What runs once is short. Positions come by copies of 16 bytes, of which a warp asks for 32
// at a time: bulk copies of a key or a value took 40 cycles of an SM each.
#pragma once

#include <cuda_fp16.h>

#include "kernels/attention_gqa/cuda/gqa_decode_kernel.cuh"
#include "kernels/attention_gqa/cuda/head_attend.cuh"
#include "kernels/common/cuda/cache_write.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/rope/cuda/prepare_head.cuh"
#include "kernels/rope/cuda/rotation.cuh"

namespace fairway::kernels::cuda {

constexpr int kLeastStages = 2, kMostStages = 12;  // of cached positions

struct GqaClusterArgs {
  GqaDecodeArgs decode;
  int stages;  // kLeastStages..kMostStages
};

// How many CTAs a cluster has, and how many query heads.
template <int kCtaCount, int kHeadCount>
struct GqaCluster {
  static constexpr int kCtas = kCtaCount, kHeads = kHeadCount;
  static constexpr int kHeadWarps = kGqaWarps / kHeads;  // of a head
  static constexpr int kGroups = 2 * kHeadWarps;         // halves of them
  static constexpr int kOutputs = kHeads * kGqaDim;
  static constexpr int kOwnOutputs = kOutputs / kCtas;  // that a CTA finishes
  static_assert(kOwnOutputs == 32);
};

// Followed by the stages of cached positions.
template <class Cluster>
struct alignas(16) GqaClusterMemory {
  std::uint64_t rows_there[kMostStages], rows_used[kMostStages], sums_sent;  // barriers
  alignas(16) float query[Cluster::kHeads][kGqaDim];                         // times the scale of scores
  alignas(16) float sums[Cluster::kGroups][Cluster::kOutputs];               // over the positions of half a warp
  float2 statistics[Cluster::kGroups][Cluster::kHeads];                      // of these: largest score, sum of factors
  float gathered[Cluster::kCtas][Cluster::kOwnOutputs];                      // of each CTA
  float2 gathered_statistics[Cluster::kCtas];
  alignas(16) unsigned char new_row[4 * kGqaDim];  // key, then value, as in the cache
};

template <CacheType kType, class Cluster>
class GqaClusterCta {
  using Attend = HeadAttend<kType, Cluster::kGroups>;
  using Memory = GqaClusterMemory<Cluster>;
  static constexpr int kElem = CachePiece<kType>::kBytes / kCachePiece;

 public:
  static constexpr int kPositions = Attend::kPositions;  // of a stage
  static constexpr int kStageBytes = kPositions * Attend::kRowBytes;

  __device__ explicit GqaClusterCta(const GqaClusterArgs& args)
      : a_(args),
        p_(args.decode.prepare),
        memory_(*dynamic_shared<Memory>()),
        stages_(reinterpret_cast<unsigned char*>(&memory_ + 1)),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32),
        rank_(static_cast<int>(blockIdx.x) % Cluster::kCtas),
        first_head_(static_cast<int>(blockIdx.x) / Cluster::kCtas * Cluster::kHeads),
        kv_head_(first_head_ / (p_.heads / p_.kv_heads)),
        row_(blockIdx.y) {}

  __device__ void run() {
    const int position = p_.rows.position[row_], sequence = p_.rows.sequence[row_];
    const bool there = sequence >= 0 && position >= 0 && position < p_.cache.sequence_rows;
    const int cached = there ? position : 0;
    init_barriers();
    __syncthreads();
    cluster_arrive();
    start_positions(sequence, cached);
    const Rotation rotation(p_.angles, position);
    wait_for_previous_kernel();
    let_next_kernel_start();

    prepare(rotation);
    __syncthreads();
    attend();
    __syncthreads();
    cluster_wait();  // the others' barriers are initialised
    send_sums();
    if (warp_ == 0) {
      merge();
    } else if (warp_ == 1 && owns_row() && first_head_ % (p_.heads / p_.kv_heads) == 0) {
      keep_row(sequence, position);
    }
  }

 private:
  // The CTA that meets the row's own position.
  __device__ __forceinline__ bool owns_row() const { return rank_ == Cluster::kCtas - 1; }
  // First of the cluster's outputs in the row.
  __device__ __forceinline__ __half* out() const { return a_.decode.out + (row_ * p_.heads + first_head_) * kGqaDim; }

  __device__ __forceinline__ void init_barriers() const {
    if (warp_ > 0) return;
    if (lane_ < a_.stages) {
      barrier_init(&memory_.rows_there[lane_], kGqaThreads);
      barrier_init(&memory_.rows_used[lane_], kGqaWarps);
    } else if (lane_ == kMostStages) {
      barrier_init(&memory_.sums_sent, 1);
    }
    barrier_init_fence();
    if (lane_ == kMostStages) {
      barrier_expect(&memory_.sums_sent, Cluster::kCtas * (Cluster::kOwnOutputs * 4 + 2 * 4));
    }
    __syncwarp();
  }

  // The CTA has every kCtas-th position.
  __device__ __forceinline__ void start_positions(int sequence, int cached) {
    const LayerCache& cache = p_.cache;
    const int row_bytes = cache.row_elems * kElem;
    places_ = cached > rank_ ? (cached - rank_ + Cluster::kCtas - 1) / Cluster::kCtas : 0;
    step_ = static_cast<long long>(Cluster::kCtas) * row_bytes;
    // A warp copies whole positions, a lane 16 bytes of them.
    const int at = 16 * lane_ % Attend::kValueBytes, value = 16 * lane_ / Attend::kValueBytes;
    from_ = static_cast<const unsigned char*>(cache.data) + (kv_head_ + value * p_.kv_heads) * Attend::kValueBytes + at;
    if (cached > 0) from_ += (static_cast<long long>(sequence) * cache.sequence_rows + rank_) * row_bytes;
#pragma unroll 1
    for (int stage = 0; stage < a_.stages; ++stage) load_positions(stage, stage);
  }
  // Of a turn that has any.
  __device__ __forceinline__ void load_positions(int turn, int stage) const {
    const int first = turn * Attend::kPositions;
    if (first >= places_) return;
    unsigned char* const to = stages_ + stage * kStageBytes + 16 * lane_;
#pragma unroll
    for (int place = warp_; place < Attend::kPositions; place += kGqaWarps) {
      if (first + place < places_ && 16 * lane_ < Attend::kRowBytes) {
        copy_async_16(to + place * Attend::kRowBytes, from_ + (first + place) * step_, false);
      }
    }
    copy_async_arrive(&memory_.rows_there[stage]);
  }

  // A warp for each head: queries, then the key and the value of the row's own position.
  __device__ __forceinline__ void prepare(const Rotation& rotation) const {
    constexpr int kKey = Cluster::kHeads, kValue = kKey + 1;
    const int at = kv_head_ * kGqaDim;
    const CacheRow<kType> row(memory_.new_row);
    if (warp_ < kKey || (warp_ == kKey && owns_row())) {
      const bool of_query = warp_ < kKey;
      const float* const x =
          of_query ? p_.q + row_ * p_.ldq + (first_head_ + warp_) * kGqaDim : p_.k + row_ * p_.ldk + at;
      float* const query = memory_.query[of_query ? warp_ : 0];
      prepare_short_head(p_, rotation, x, of_query ? p_.q_norm : p_.k_norm, [&](int i, float v) {
        if (of_query) {
          query[i] = v * a_.decode.scale_log2;
        } else {
          row.store(i, v);
        }
      });
    } else if (warp_ == kValue && owns_row()) {
      const float* const v = p_.v + row_ * p_.ldv + at;
      copy_elements<4>(
          kGqaDim, [&](int i) { return v[i]; }, [&](int i, float x) { row.store(kGqaDim + i, x); });
    }
  }

  // By the warps of each head: the CTA's positions, then the sums to memory.
  __device__ __forceinline__ void attend() const {
    const int head = warp_ / Cluster::kHeadWarps;
    Attend one(memory_.query[head], warp_ % Cluster::kHeadWarps);
    const int turns = (places_ + Attend::kPositions - 1) / Attend::kPositions;
    const int all = turns + (owns_row() ? 1 : 0);  // and the row's own
    int stage = 0, parity = 0;
#pragma unroll 1
    for (int turn = 0; turn < all; ++turn) {
      const bool cached = turn < turns;
      if (cached) barrier_wait(&memory_.rows_there[stage], parity);
      one.add(cached ? stages_ + stage * kStageBytes : memory_.new_row,
              cached ? places_ - turn * Attend::kPositions : 1);
      if (turn + a_.stages < turns) {
        __syncwarp();
        if (lane_ == 0) barrier_arrive(&memory_.rows_used[stage]);
      }
      // The stage of the turn before, which the other warps are done with by now.
      if (turn > 0 && turn - 1 + a_.stages < turns) {
        const int before = stage > 0 ? stage - 1 : a_.stages - 1;
        barrier_wait(&memory_.rows_used[before], stage > 0 ? parity : parity ^ 1);
        load_positions(turn - 1 + a_.stages, before);
      }
      if (++stage == a_.stages) stage = 0, parity ^= 1;
    }
    auto* const to = reinterpret_cast<float4*>(&memory_.sums[one.group][head * kGqaDim + kCachePiece * one.lane]);
    to[0] = make_float4(one.sum[0], one.sum[1], one.sum[2], one.sum[3]);
    to[1] = make_float4(one.sum[4], one.sum[5], one.sum[6], one.sum[7]);
    if (one.lane == 0) memory_.statistics[one.group][head] = make_float2(one.most, one.total);
  }

  // Sums over the CTA's positions, for the CTA that finishes them.
  __device__ __forceinline__ void send_sums() const {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < Cluster::kOutputs; i += kGqaThreads) {
      const int head = i / kGqaDim;
      float most = kNoScore;
#pragma unroll
      for (int g = 0; g < Cluster::kGroups; ++g) most = fmaxf(most, memory_.statistics[g][head].x);
      const float reference = most == kNoScore ? 0.0f : most;
      float total = 0, sum = 0;
#pragma unroll
      for (int g = 0; g < Cluster::kGroups; ++g) {
        const float2 of_group = memory_.statistics[g][head];
        const float factor = exp2f(of_group.x - reference);
        total = fmaf(factor, of_group.y, total);
        sum = fmaf(factor, memory_.sums[g][i], sum);
      }
      const int to = i / Cluster::kOwnOutputs, own = i % Cluster::kOwnOutputs;
      send_to_cluster(&memory_.gathered[rank_][own], &memory_.sums_sent, to, sum);
      if (own < 2) {
        send_to_cluster(&memory_.gathered_statistics[rank_].x + own, &memory_.sums_sent, to, own == 0 ? most : total);
      }
    }
  }

  // By a warp: the CTA's outputs.
  __device__ __forceinline__ void merge() const {
    barrier_wait_cluster(&memory_.sums_sent, 0);
    float most = kNoScore, total = 0, sum = 0;
#pragma unroll 8
    for (int c = 0; c < Cluster::kCtas; ++c) most = fmaxf(most, memory_.gathered_statistics[c].x);
#pragma unroll 4
    for (int c = 0; c < Cluster::kCtas; ++c) {
      const float2 of_part = memory_.gathered_statistics[c];
      const float factor = exp2f(of_part.x - most);
      total = fmaf(factor, of_part.y, total);
      sum = fmaf(factor, memory_.gathered[c][lane_], sum);
    }
    out()[rank_ * Cluster::kOwnOutputs + lane_] = __float2half_rn(sum / total);
  }

  // The row to the cache, when nobody waits for it.
  __device__ __forceinline__ void keep_row(int sequence, int position) const {
    const CacheRow<kType> row(p_.cache, sequence, position);
    if (!row.there()) return;
    constexpr int kWords = Attend::kValueBytes / 8;
#pragma unroll 1
    for (int i = lane_; i < 2 * kWords; i += 32) {
      const int head = kv_head_ + (i < kWords ? 0 : p_.kv_heads);
      reinterpret_cast<uint2*>(row.data() + head * Attend::kValueBytes)[i % kWords] =
          reinterpret_cast<const uint2*>(memory_.new_row)[i];
    }
  }

  const GqaClusterArgs& a_;
  const GqaPrepare& p_;
  Memory& memory_;
  unsigned char* const stages_;
  const int warp_, lane_, rank_, first_head_, kv_head_;
  const long long row_;
  int places_;                 // positions of the CTA
  const unsigned char* from_;  // what the lane copies of the first one
  long long step_;             // bytes to the next one
};

template <CacheType kType, class Cluster>
__global__ void __launch_bounds__(kGqaThreads, 2) gqa_cluster_kernel(const __grid_constant__ GqaClusterArgs args) {
  if constexpr (kCodeHasClusters) {
    GqaClusterCta<kType, Cluster>(args).run();
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
