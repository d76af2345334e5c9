// A cluster of CTAs has some query heads of one key/value head, for one row: each CTA rotates the queries for itself,
// then they share the positions, which are on their way to shared memory before the kernel ahead has ended, and each
// gets a share of the sums. What runs once is short. Positions come by copies of 16 bytes, of which a warp asks for 32
// at a time: bulk copies of a key or a value took 40 cycles of an SM each.
#pragma once

#include <cuda_fp16.h>

#include "kernels/attention_gqa/cuda/gqa_decode_kernel.cuh"
#include "kernels/attention_gqa/cuda/heads_tile.cuh"
#include "kernels/common/cuda/cache_write.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/rope/cuda/prepare_head.cuh"
#include "kernels/rope/cuda/rotation.cuh"

namespace fairway::kernels::cuda {

constexpr int kGqaCluster = 16, kGqaHeads = HeadsTile::kHeads;
constexpr int kGqaOutputs = kGqaHeads * kGqaDim, kGqaOwnOutputs = kGqaOutputs / kGqaCluster;  // of a cluster, of a CTA
static_assert(kGqaOwnOutputs == 32);

struct alignas(16) GqaClusterMemory {
  unsigned char tiles[kGqaWarps][HeadsTile::kBytes];  // of each warp
  alignas(16) __half query[2 * kGqaHeads * HeadsTile::kQueryStride];
  float sums[kGqaWarps][kGqaOutputs];              // over a warp's positions
  alignas(16) unsigned char new_row[4 * kGqaDim];  // halves: key, then value
  float gathered[kGqaCluster][kGqaOwnOutputs];     // of each CTA
  float2 gathered_statistics[kGqaCluster];
  float2 statistics[kGqaWarps][kGqaHeads];  // of a warp: largest score, sum of factors
  std::uint64_t sums_sent;                  // barrier
};

template <CacheType kType>
class GqaClusterCta {
  static constexpr int kElem = CachePiece<kType>::kBytes / kCachePiece;
  static constexpr int kHeadBytes = kElem * kGqaDim;                              // of a key or value in the cache
  static constexpr int kRawOffset = kType == CacheType::kHalf ? 0 : 2 * kGqaDim;  // of copied bytes in a tile's row
  static constexpr int kRound = kGqaWarps * HeadsTile::kPositions;  // places of a CTA that its warps have at a time

 public:
  __device__ explicit GqaClusterCta(const GqaDecodeArgs& args)
      : a_(args),
        p_(args.prepare),
        memory_(*dynamic_shared<GqaClusterMemory>()),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32),
        rank_(static_cast<int>(blockIdx.x) % kGqaCluster),
        first_head_(static_cast<int>(blockIdx.x) / kGqaCluster * kGqaHeads),
        kv_head_(first_head_ / (p_.heads / p_.kv_heads)),
        row_(blockIdx.y) {}

  __device__ void run() {
    const int position = p_.rows.position[row_], sequence = p_.rows.sequence[row_];
    const bool there = sequence >= 0 && position >= 0 && position < p_.cache.sequence_rows;
    const int cached = there ? position : 0;
    init_barrier();
    cluster_arrive();
    start_positions(sequence, cached);
    const Rotation rotation(p_.angles, position);
    const HeadWeights weights(p_, rotation, warp_ < kGqaHeads ? p_.q_norm : p_.k_norm);
    wait_for_previous_kernel();
    let_next_kernel_start();

    prepare(rotation, weights);
    __syncthreads();
    expect_sums();
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
  __device__ __forceinline__ bool owns_row() const { return rank_ == kGqaCluster - 1; }
  // First of the cluster's outputs in the row.
  __device__ __forceinline__ __half* out() const { return a_.out + (row_ * p_.heads + first_head_) * kGqaDim; }

  __device__ __forceinline__ void init_barrier() const {
    if (threadIdx.x == 0) {
      barrier_init(&memory_.sums_sent, 1);
      barrier_init_fence();
    }
    __syncwarp();
  }
  // Behind a barrier of the CTA, though the same thread has initialised this one: as predicated instructions of a warp,
  // the two look like accesses of different threads to racecheck. Sums may come before.
  __device__ __forceinline__ void expect_sums() const {
    if (threadIdx.x == 0) barrier_expect(&memory_.sums_sent, kGqaCluster * (kGqaOwnOutputs * 4 + 2 * 4));
  }

  // The CTA has every 16th position, a warp 16 of them at a time. The row's own is its CTA's last place.
  __device__ __forceinline__ void start_positions(int sequence, int cached) {
    const LayerCache& cache = p_.cache;
    const int row_bytes = cache.row_elems * kElem;
    cached_ = cached > rank_ ? (cached - rank_ + kGqaCluster - 1) / kGqaCluster : 0;
    places_ = cached_ + (owns_row() ? 1 : 0);
    step_ = static_cast<long long>(kGqaCluster) * row_bytes;
    const int at = 16 * lane_ % kHeadBytes, value = 16 * lane_ / kHeadBytes;
    from_ = static_cast<const unsigned char*>(cache.data) + (kv_head_ + value * p_.kv_heads) * kHeadBytes + at;
    if (cached > 0) from_ += (static_cast<long long>(sequence) * cache.sequence_rows + rank_) * row_bytes;
    load_tile(warp_ * HeadsTile::kPositions);
  }
  // first: place of the tile's first row.
  __device__ __forceinline__ void load_tile(int first) const {
    if (first >= places_ || 16 * lane_ >= 2 * kHeadBytes) return;
    unsigned char* const to = memory_.tiles[warp_] + kRawOffset + 16 * lane_;
#pragma unroll 4
    for (int i = 0; i < HeadsTile::kPositions; ++i) {
      const bool there = first + i < cached_;
      copy_async_16(to + i * HeadsTile::kRowBytes, there ? from_ + (first + i) * step_ : from_, !there);
    }
    copy_async_commit();
  }
  // The tile as halves, with the row's own position.
  __device__ __forceinline__ unsigned char* finish_tile(int first) const {
    unsigned char* const tile = memory_.tiles[warp_];
    copy_async_wait<0>();
    __syncwarp();
    if constexpr (kType == CacheType::kE4m3) {
#pragma unroll 4
      for (int i = 0; i < HeadsTile::kPositions; ++i) {
        unsigned char* const row = tile + i * HeadsTile::kRowBytes;
        const uint2 raw = *reinterpret_cast<const uint2*>(row + kRawOffset + 8 * lane_);
        __syncwarp();
        *reinterpret_cast<uint4*>(row + 16 * lane_) =
            make_uint4(halves_from_e4m3(raw.x & 0xFFFFu), halves_from_e4m3(raw.x >> 16),
                       halves_from_e4m3(raw.y & 0xFFFFu), halves_from_e4m3(raw.y >> 16));
      }
    }
    const int own = cached_ - first;  // of this CTA's row, if it has one
    if (owns_row() && own >= 0 && own < HeadsTile::kPositions) {
      *reinterpret_cast<uint4*>(tile + own * HeadsTile::kRowBytes + 16 * lane_) =
          *reinterpret_cast<const uint4*>(memory_.new_row + 16 * lane_);
    }
    __syncwarp();
    return tile;
  }

  // A warp for each head: queries, then the key and the value of the row's own position.
  __device__ __forceinline__ void prepare(const Rotation& rotation, const HeadWeights& weights) const {
    constexpr int kKey = kGqaHeads, kValue = kKey + 1;
    const int at = kv_head_ * kGqaDim;
    __half* const row = reinterpret_cast<__half*>(memory_.new_row);
    if (warp_ < kKey || (warp_ == kKey && owns_row())) {
      const bool of_query = warp_ < kKey;
      const float* const x =
          of_query ? p_.q + row_ * p_.ldq + (first_head_ + warp_) * kGqaDim : p_.k + row_ * p_.ldk + at;
      prepare_short_head(p_, rotation, x, (of_query ? p_.q_norm : p_.k_norm) != nullptr, weights, [&](int i, float v) {
        if (of_query) {
          HeadsTile::store_query(memory_.query, warp_, i, v * a_.scale_log2);
        } else {
          row[i] = as_cached(v);
        }
      });
    } else if (warp_ == kValue && owns_row()) {
      const float* const v = p_.v + row_ * p_.ldv + at;
      copy_elements<4>(
          kGqaDim, [&](int i) { return v[i]; }, [&](int i, float x) { row[kGqaDim + i] = as_cached(x); });
    }
  }

  // What the cache has of a value. Exact.
  __device__ static __forceinline__ __half as_cached(float v) {
    if constexpr (kType == CacheType::kHalf) return saturated_half(v);
    const unsigned halves = halves_from_e4m3(__nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3));
    return __ushort_as_half(static_cast<unsigned short>(halves & 0xFFFFu));
  }

  // The warp's positions, then its sums to memory.
  __device__ __forceinline__ void attend() const {
    int first = warp_ * HeadsTile::kPositions;
    if (first >= places_) return;
    HeadsTile heads;
#pragma unroll 1
    while (true) {
      const unsigned char* const tile = finish_tile(first);
      heads.add(memory_.query, tile, places_ - first);
      first += kRound;
      if (first >= places_) break;
      __syncwarp();
      load_tile(first);
    }
    heads.leave(memory_.sums[warp_], memory_.statistics[warp_]);
  }
  // Warps that had some.
  __device__ __forceinline__ int parts() const {
    return min((places_ + HeadsTile::kPositions - 1) / HeadsTile::kPositions, kGqaWarps);
  }

  // Sums over the CTA's positions, for the CTA that finishes them.
  __device__ __forceinline__ void send_sums() const {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x), count = parts(); i < kGqaOutputs; i += kGqaThreads) {
      const int head = i / kGqaDim;
      float most = kNoScore;
#pragma unroll 2
      for (int g = 0; g < count; ++g) most = fmaxf(most, memory_.statistics[g][head].x);
      const float reference = most == kNoScore ? 0.0f : most;
      float total = 0, sum = 0;
#pragma unroll 2
      for (int g = 0; g < count; ++g) {
        const float2 of_group = memory_.statistics[g][head];
        const float factor = power_of_two(of_group.x - reference);
        total = fmaf(factor, of_group.y, total);
        sum = fmaf(factor, memory_.sums[g][i], sum);
      }
      const int to = i / kGqaOwnOutputs, own = i % kGqaOwnOutputs;
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
    for (int c = 0; c < kGqaCluster; ++c) most = fmaxf(most, memory_.gathered_statistics[c].x);
#pragma unroll 4
    for (int c = 0; c < kGqaCluster; ++c) {
      const float2 of_part = memory_.gathered_statistics[c];
      const float factor = power_of_two(of_part.x - most);
      total = fmaf(factor, of_part.y, total);
      sum = fmaf(factor, memory_.gathered[c][lane_], sum);
    }
    out()[rank_ * kGqaOwnOutputs + lane_] = __float2half_rn(sum / total);
  }

  // The row to the cache, when nobody waits for it.
  __device__ __forceinline__ void keep_row(int sequence, int position) const {
    const CacheRow<kType> row(p_.cache, sequence, position);
    const __half* const from = reinterpret_cast<const __half*>(memory_.new_row);
#pragma unroll 1
    for (int i = lane_; i < 2 * kGqaDim; i += 32) {
      const int head = kv_head_ + (i < kGqaDim ? 0 : p_.kv_heads);
      row.store(head * kGqaDim + i % kGqaDim, __half2float(from[i]));
    }
  }

  const GqaDecodeArgs& a_;
  const GqaPrepare& p_;
  GqaClusterMemory& memory_;
  const int warp_, lane_, rank_, first_head_, kv_head_;
  const long long row_;
  int cached_, places_;        // positions of the CTA: in the cache, and with its own
  const unsigned char* from_;  // what the lane copies of the first one
  long long step_;             // bytes to the next one
};

template <CacheType kType>
__global__ void __launch_bounds__(kGqaThreads, 2) gqa_cluster_kernel(const __grid_constant__ GqaDecodeArgs args) {
  if constexpr (kCodeHasClusters) {
    GqaClusterCta<kType>(args).run();
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
