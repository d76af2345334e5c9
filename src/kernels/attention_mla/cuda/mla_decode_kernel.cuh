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

// kUsual: the sizes are kUsualNope and kUsualRope, latent kOneLatent and v kOneV.
template <CacheType kType, UpWeight kUp, bool kUsual>
class MlaDecodeCta {
  using Attend = LanesAttend<kType, 32, 3, 2, true, kDecodeBatch>;
  using Absorb = AbsorbOne<kUp, kUsual ? kUsualNope : 0>;
  static constexpr int kHeld = kOneLatent / kChunk / 32;

 public:
  __device__ __forceinline__ explicit MlaDecodeCta(const MlaDecodeArgs& args)
      : a_(args),
        p_(args.prepare),
        memory_(*dynamic_shared<DecodeMemory<kUp>>()),
        thread_(static_cast<int>(threadIdx.x)),
        rank_(static_cast<int>(blockIdx.x % kOneCluster)),
        head_(static_cast<int>(blockIdx.x / kOneCluster)),
        row_(blockIdx.y) {}

  __device__ __forceinline__ void run() {
    const MlaUpProjection up = this->up();
    const RopeAngles angles = this->angles();
    init_barriers(up);
    cluster_arrive();
    const int position = p_.rows.position[row_], sequence = p_.rows.sequence[row_];
    const int warp = static_cast<int>(threadIdx.x / 32);
    Absorb absorb(up, head_);
    absorb.load(up, rank_);
    float scale = 0, own = 0;  // of the query's element of this thread
    if constexpr (kUsual) {
      absorb.load_scales(up, a_.scale_log2);
    } else {
      if (thread_ < nope()) scale = absorb.scale(up, thread_) * a_.scale_log2;
    }
    wait_for_previous_kernel();
    let_next_kernel_start();
    if constexpr (kUsual) {
      absorb.take_query(q());
    } else {
      if (thread_ < nope()) own = q()[thread_];
    }
    cluster_wait();  // the others' barriers are initialised
    // What needs to know the position comes behind the query, for the CTAs that start late; others wait for that
    // anyway.
    const CachedPositions positions = cached(sequence, position);
    const int owner = positions.end % kOneCluster;  // the CTA that meets the row's own position
    const bool makes_row = rank_ == owner && warp == kOneWarps - 1;
    Attend attend;
    attend.start(positions, rank_ + kOneCluster * warp, kOneCluster * kOneWarps);
    Rotation rotation(angles, position);
    const float* const kv = p_.kv + row_ * p_.ldkv;
    const float* const rotated = makes_row ? kv + latent() : q() + nope();
    const auto element = [&](int i) { return rotated[i]; };
    float held[kHeld][kChunk];  // of the new row's latent
    if (makes_row) {
      for (int j = 0; j < kHeld; ++j) load_floats<true>(kv + chunk(j), latent() - chunk(j), held[j]);
      load_norm();
    }
    if (makes_row || warp == 0) rotation.load(element);
    if constexpr (kUsual) {
      absorb.expand();
    } else {
      memory_.absorb.scaled[thread_] = own * scale;
      __syncthreads();
    }
    absorb.multiply(memory_.absorb);
    send_query(absorb.slice());
    if (makes_row) {
      const CacheRow<kType> row(memory_.new_row);
      rotation.rotate(element, [&](int i, float v) { row.store(latent() + i, v); });
      norm(held, row);
      __syncwarp();
    } else if (warp == 0) {
      rotation.rotate(element, [&](int i, float v) { memory_.query[latent() + i] = v * a_.scale_log2; });
    }
    __syncthreads();  // the rotated part of the query is there
    barrier_wait_cluster(&memory_.query_sent, 0);
    attend.run(memory_.query, memory_.new_row);
    leave_sums(attend);
    const UnfoldOne<kUp> unfold(up, head_, rank_);
    __syncthreads();
    send_sums();
    if (rank_ == owner && head_ == 0 && is_there(sequence, position)) {
      const long long row = static_cast<long long>(sequence) * p_.cache.sequence_rows + position;
      keep_row(static_cast<unsigned char*>(p_.cache.data) + row * positions.row_bytes);
    }
    barrier_wait_cluster(&memory_.sums_sent, 0);
    merge();
    barrier_wait(&memory_.weights_there, 0);
    __syncthreads();
    unfold.run(memory_.weights, memory_.latent, a_.out + row_ * a_.ldo);
  }

 private:
  __device__ __forceinline__ void init_barriers(const MlaUpProjection& up) const {
    if (thread_ == 0) {
      barrier_init(&memory_.query_sent, 1);
      barrier_init(&memory_.sums_sent, 1);
      barrier_init(&memory_.weights_there, 1);
      barrier_init_fence();
      UnfoldOne<kUp>::load(up, head_, rank_, memory_.weights, &memory_.weights_there);
      barrier_expect(&memory_.query_sent, latent() * 4);
      barrier_expect(&memory_.sums_sent, kOneCluster * (latent() * 4 + 16));
    }
    __syncwarp();
  }

  __device__ __forceinline__ int latent() const { return kUsual ? kOneLatent : p_.latent; }
  __device__ __forceinline__ int rope() const { return kUsual ? kUsualRope : p_.angles.dim; }
  __device__ __forceinline__ int nope() const { return kUsual ? kUsualNope : p_.nope; }
  __device__ __forceinline__ MlaUpProjection up() const {
    MlaUpProjection up = a_.up;
    up.latent = latent();
    up.nope = nope();
    if (kUsual) up.v = kOneV;
    return up;
  }
  __device__ __forceinline__ RopeAngles angles() const {
    RopeAngles angles = p_.angles;
    angles.dim = rope();
    return angles;
  }
  __device__ __forceinline__ const float* q() const {
    return p_.q + row_ * p_.ldq + static_cast<long long>(head_) * (nope() + rope());
  }
  // First of a lane's elements j of the latent.
  __device__ static __forceinline__ int chunk(int j) { return kChunk * (static_cast<int>(threadIdx.x % 32) + 32 * j); }

  // By the warp that makes the position's own row: the norm's weights, where the result comes later.
  __device__ __forceinline__ void load_norm() const {
#pragma unroll 4
    for (int i = 4 * static_cast<int>(threadIdx.x % 32); i < latent(); i += 4 * 32) {
      copy_async_16(&memory_.latent[i], p_.kv_norm + i, false);
    }
    copy_async_commit();
  }
  // Its latent, as the cache has it.
  __device__ __forceinline__ void norm(const float (&held)[kHeld][kChunk], const CacheRow<kType>& row) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kHeld * kChunk; ++i)
      sum = fmaf(held[i / kChunk][i % kChunk], held[i / kChunk][i % kChunk], sum);
    const float scale = rms_factor(warp_sum(sum), latent(), p_.eps);
    copy_async_wait<0>();
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      if (chunk(j) >= latent()) break;
      float v[kChunk];
      load_floats<true>(memory_.latent + chunk(j), kChunk, v);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) v[i] *= held[j][i] * scale;
      row.store_chunk(chunk(j), v);
    }
  }

  __device__ __forceinline__ bool is_there(int sequence, int position) const {
    return sequence >= 0 && position >= 0 && position < p_.cache.sequence_rows;
  }

  // The row to the cache, while the sums of others are on their way.
  __device__ __forceinline__ void keep_row(unsigned char* to) const {
    const int words = (latent() + rope()) / kCachePiece * CachePiece<kType>::kBytes / 8;
    for (int i = thread_; i < words; i += kOneThreads) {
      reinterpret_cast<uint2*>(to)[i] = reinterpret_cast<const uint2*>(memory_.new_row)[i];
    }
  }

  // What was in the cache before this step.
  __device__ __forceinline__ CachedPositions cached(int sequence, int position) const {
    const LayerCache& cache = p_.cache;
    const bool there = is_there(sequence, position);
    const int row_bytes = cache.row_elems / kCachePiece * CachePiece<kType>::kBytes;
    const auto* const data = static_cast<const unsigned char*>(cache.data);
    return {data + (there ? static_cast<long long>(sequence) * cache.sequence_rows * row_bytes : 0),
            row_bytes,
            0,
            (latent() + rope()) / kCachePiece,
            latent() / kCachePiece,
            there ? position : 0};
  }

  // The CTA's slice of the absorbed query to all CTAs.
  __device__ __forceinline__ void send_query(int slice) const {
    const int word = static_cast<int>(threadIdx.x % 16), to = static_cast<int>(threadIdx.x / 16);
    if (to >= kOneCluster || 4 * word >= slice) return;
    send_to_cluster(reinterpret_cast<float4*>(&memory_.query[rank_ * slice + 4 * word]), &memory_.query_sent, to,
                    Absorb::sum(memory_.absorb, word, 1.0f));
  }

  __device__ __forceinline__ void leave_sums(const Attend& attend) const {
    const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
    for (int j = 0; j < 2; ++j) {
      auto* const to = reinterpret_cast<float4*>(&memory_.warp_sums[warp][kCachePiece * (lane + 32 * j)]);
      const float(&v)[kCachePiece] = attend.sum[j];
      to[0] = make_float4(v[0], v[1], v[2], v[3]);
      to[1] = make_float4(v[4], v[5], v[6], v[7]);
    }
    if (lane == 0) memory_.warp_statistics[warp] = make_float2(attend.most, attend.total);
  }

  // By half of the warps: two CTAs share most SMs, and their instructions with them.
  __device__ __forceinline__ void send_sums() const {
    if (4 * thread_ >= latent()) return;
    float most = kNoScore, total = 0;
    for (int w = 0; w < kOneWarps; ++w) most = fmaxf(most, memory_.warp_statistics[w].x);
    const float reference = most == kNoScore ? 0.0f : most;
    const float4 sum = merge_parts<kOneWarps>(
        reference, [&](int w) { return memory_.warp_statistics[w]; },
        [&](int w) { return *reinterpret_cast<const float4*>(&memory_.warp_sums[w][4 * thread_]); }, total);
    auto* const to = reinterpret_cast<float4*>(&memory_.sums[rank_][4 * thread_]);
    // All CTAs to another one at a time.
    for (int i = 0; i < kOneCluster; ++i) send_to_cluster(to, &memory_.sums_sent, (rank_ + i) % kOneCluster, sum);
    if (thread_ < kOneCluster) {
      send_to_cluster(&memory_.statistics[rank_], &memory_.sums_sent, thread_, make_float4(most, total, 0, 0));
    }
  }

  __device__ __forceinline__ void merge() const {
    if (4 * thread_ >= latent()) return;
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

template <CacheType kType, UpWeight kUp, bool kUsual>
__global__ void __launch_bounds__(kOneThreads, 2) mla_decode_kernel(const __grid_constant__ MlaDecodeArgs args) {
  if constexpr (kCodeHasClusters) {
    MlaDecodeCta<kType, kUp, kUsual>(args).run();
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
