// The projections and the attention of one row: a cluster of CTAs has some query heads of one key/value head, with that
// head's key and value. Each CTA computes a share of the outputs over all inputs and sends it to all of them; then they
// share the positions. Coded weights and cached positions are on their way before the kernel ahead has ended.
#pragma once

#include <cuda_fp16.h>

#include "kernels/attention_gqa/cuda/heads_attend.cuh"
#include "kernels/common/cuda/attend_merge.cuh"
#include "kernels/common/cuda/cache_write.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/rope/cuda/prepare_head.cuh"
#include "kernels/rope/cuda/rotation.cuh"
#include "kernels/trellis_linear/cuda/linear_norm.cuh"
#include "kernels/trellis_linear/cuda/linear_one.cuh"

namespace fairway::kernels::cuda {

constexpr int kGqaCluster = 16;
constexpr int kGqaHeads = 4;  // query heads of a cluster
constexpr int kGqaOneDim = kBand;
constexpr int kGqaOneWarps = 8, kGqaOneThreads = 32 * kGqaOneWarps;
constexpr int kGqaOneInputs = kGqaOneWarps * kOneBlocks * kBand;  // most
constexpr int kDigitStride = kGqaOneInputs + 32;                  // from high to low digits: other banks

// A CTA computes some tile columns of the query heads, and one of the key or of the value.
constexpr int kQueryColumns = kGqaHeads * kBandTiles / kGqaCluster, kOtherColumns = 2 * kBandTiles / kGqaCluster;
constexpr int kOneColumns = kQueryColumns + kOtherColumns;
static_assert(kOtherColumns == 1);
constexpr int kQueryOutputs = 16 * kQueryColumns, kOneOutputs = 16 * kOneColumns;

constexpr int kMostStages = 8;                                        // of cached positions, of a warp
constexpr int kMergedOutputs = kGqaHeads * kGqaOneDim / kGqaCluster;  // of attention, that a CTA finishes
constexpr int kWarpSums = kGqaOneWarps * kGqaHeads * kGqaOneDim * static_cast<int>(sizeof(float));

struct GqaOneArgs {
  GqaPrepare prepare;
  LinearNorm norm;
  TrellisRef q, k, v;
  int in;            // of them
  bool same_inputs;  // the three have the same input scales
  int stages;
  float scale_log2;
  __half* out;  // [heads, kGqaOneDim]
};

// Bytes of a tile row of a CTA.
__host__ __device__ __forceinline__ int one_row_bytes(int query_bits, int other_bits) {
  return 32 * (kQueryColumns * query_bits + kOtherColumns * other_bits);
}

// Followed by the digits of one input or two, the stages of all warps, and the coded weights, which are later the sums
// of the warps.
struct alignas(16) GqaOneMemory {
  std::uint64_t weights_there[kGqaOneWarps], rows_there[kGqaOneWarps][kMostStages];  // barriers
  std::uint64_t outputs_sent, sums_sent;
  float outputs[kGqaHeads + 2][kGqaOneDim];    // of all CTAs: query heads; the last CTA of a cluster: key and value
  float query[kGqaHeads][kGqaOneDim];          // times the scale of scores
  float norms[2][kGqaOneDim];                  // weights: of queries, of keys
  float parts[kGqaOneWarps][kOneOutputs + 4];  // over a warp's inputs
  float squares[kGqaOneWarps];                 // in front of the norm
  float2 statistics[kGqaOneWarps][kGqaHeads];  // of a warp: largest score, sum of factors
  float4 gathered_statistics[kGqaCluster];     // of each CTA
  float gathered[kGqaCluster][kMergedOutputs];
  unsigned char new_row[4 * kGqaOneDim];  // key, then value, as in the cache
};

template <CacheType kType>
class GqaOneCta {
  using Attend = HeadsAttend<kType, kGqaHeads>;
  static constexpr int kStageBytes = Attend::kPositions * Attend::kRowBytes;
  static constexpr int kElem = CachePiece<kType>::kBytes / kCachePiece;
  static constexpr int kStep = kGqaCluster * kGqaOneWarps;  // from a warp's position to its next one

 public:
  __host__ __device__ static int shared_bytes(int inputs, int stages, int coded_bytes) {
    return static_cast<int>(sizeof(GqaOneMemory)) + 2 * inputs * kDigitStride + kGqaOneWarps * stages * kStageBytes +
           (coded_bytes > kWarpSums ? coded_bytes : kWarpSums);
  }

  __device__ explicit GqaOneCta(const GqaOneArgs& args)
      : a_(args),
        p_(args.prepare),
        memory_(*dynamic_shared<GqaOneMemory>()),
        digits_(reinterpret_cast<unsigned char*>(&memory_ + 1)),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32),
        rank_(static_cast<int>(blockIdx.x) % kGqaCluster),
        first_head_(static_cast<int>(blockIdx.x) / kGqaCluster * kGqaHeads),
        kv_head_(first_head_ / (p_.heads / p_.kv_heads)) {
    stages_ = digits_ + (a_.same_inputs ? 2 : 4) * kDigitStride;
    coded_ = stages_ + kGqaOneWarps * a_.stages * kStageBytes;
    stages_ += warp_ * a_.stages * kStageBytes;
    const int blocks = a_.in / kBand;
    block_ = warp_ * blocks / kGqaOneWarps;
    count_ = (warp_ + 1) * blocks / kGqaOneWarps - block_;
  }

  __device__ void run() {
    const TrellisRef& other = makes_key() ? a_.k : a_.v;
    init_barriers();
    load_weights(other);
    cluster_arrive();
    const int position = p_.rows.position[0], sequence = p_.rows.sequence[0];
    start_positions(sequence, position);
    float4 weight[kOneBlocks];
    uint2 query_suh[kOneBlocks], other_suh[kOneBlocks];
#pragma unroll
    for (int b = 0; b < kOneBlocks; ++b) {
      const int k = input(b);
      weight[b] = make_float4(0, 0, 0, 0);
      query_suh[b] = other_suh[b] = make_uint2(0, 0);
      if (b >= count_) continue;
      if (k < a_.norm.n) weight[b] = *reinterpret_cast<const float4*>(a_.norm.weight + k);
      query_suh[b] = *reinterpret_cast<const uint2*>(a_.q.suh + k);
      if (!a_.same_inputs) other_suh[b] = *reinterpret_cast<const uint2*>(other.suh + k);
    }
    // A warp for each head: of the queries, the key, the value.
    uint2 svh = make_uint2(0, 0);
    if (warp_ < kGqaHeads + 2) {
      const __half* const from = warp_ < kGqaHeads ? a_.q.svh + (first_head_ + warp_) * kGqaOneDim
                                                   : (warp_ == kGqaHeads ? a_.k.svh : a_.v.svh) + kv_head_ * kGqaOneDim;
      svh = *reinterpret_cast<const uint2*>(from + 4 * lane_);
    }
    load_norms();
    Rotation rotation(p_.angles, position);
    wait_for_previous_kernel();
    let_next_kernel_start();

    project(other, weight, query_suh, other_suh);
    __syncthreads();
    cluster_wait();  // the others' barriers are initialised
    send_outputs();
    if (warp_ < kGqaHeads || (owns_row() && warp_ < kGqaHeads + 2)) finish_head(svh, rotation);
    __syncthreads();
    attend();
    __syncthreads();
    send_sums();
    if (warp_ == 0) {
      merge();
    } else if (warp_ == 1 && owns_row() && first_head_ % (p_.heads / p_.kv_heads) == 0) {
      keep_row(sequence, position);
    }
  }

 private:
  // The first half of the cluster has tile columns of the key, the other one of the value.
  __device__ __forceinline__ bool makes_key() const {
    return rank_ < kGqaCluster / 2;
  }
  // The CTA that meets the row's own position.
  __device__ __forceinline__ bool owns_row() const {
    return rank_ == kGqaCluster - 1;
  }
  // First of a lane's inputs in the warp's block b.
  __device__ __forceinline__ int input(int b) const {
    return (block_ + b) * kBand + 4 * lane_;
  }

  __device__ __forceinline__ void init_barriers() const {
    if (lane_ < a_.stages) barrier_init(&memory_.rows_there[warp_][lane_], 1);
    if (lane_ == 0) barrier_init(&memory_.weights_there[warp_], 1);
    if (threadIdx.x == 0) {
      barrier_init(&memory_.outputs_sent, 1);
      barrier_init(&memory_.sums_sent, 1);
    }
    barrier_init_fence();
    if (threadIdx.x == 0) {
      barrier_expect(&memory_.outputs_sent, (kGqaHeads + (owns_row() ? 2 : 0)) * kGqaOneDim * 4);
      barrier_expect(&memory_.sums_sent, kGqaCluster * (kMergedOutputs * 4 + 16));
    }
    __syncwarp();
  }

  // Each warp asks for the tile rows that it multiplies.
  __device__ __forceinline__ int row_bytes(const TrellisRef& other) const {
    return one_row_bytes(a_.q.bits, other.bits);
  }
  __device__ __forceinline__ unsigned char* own_rows(const TrellisRef& other) const {
    return coded_ + block_ * kBandTiles * row_bytes(other);
  }
  __device__ __forceinline__ void load_weights(const TrellisRef& other) const {
    std::uint64_t* const there = &memory_.weights_there[warp_];
    const int rows = count_ * kBandTiles, bytes = row_bytes(other), query_bytes = 32 * kQueryColumns * a_.q.bits;
    if (lane_ == 0) barrier_expect(there, rows * bytes);
    __syncwarp();
    // Half of the lanes ask for tiles of queries.
    const bool of_query = lane_ < 16;
    const TrellisRef& m = of_query ? a_.q : other;
    const int column = of_query ? first_head_ * kBandTiles + rank_ * kQueryColumns
                                : kv_head_ * kBandTiles + rank_ % kBandTiles * kOtherColumns;
    const int tile_bytes = 32 * m.bits, matrix_columns = (of_query ? p_.heads : p_.kv_heads) * kBandTiles;
    const long long from_row = static_cast<long long>(matrix_columns) * tile_bytes;
    const unsigned char* const from = m.words + block_ * kBandTiles * from_row + column * tile_bytes;
    unsigned char* const to = own_rows(other) + (of_query ? 0 : query_bytes);
#pragma unroll 1
    for (int row = lane_ % 16; row < rows; row += 16) {
      bulk_load(to + row * bytes, from + row * from_row, of_query ? query_bytes : bytes - query_bytes, there);
    }
  }

  // The warp has positions first, first + kStep, ...: places 0, 1, ... of it.
  __device__ __forceinline__ void start_positions(int sequence, int position) {
    const LayerCache& cache = p_.cache;
    const bool there = sequence >= 0 && position >= 0 && position < cache.sequence_rows;
    const int first = rank_ + kGqaCluster * warp_;
    places_ = there && position > first ? (position - first + kStep - 1) / kStep : 0;
    cache_row_ = cache.row_elems * kElem;
    keys_ = static_cast<const unsigned char*>(cache.data) + kv_head_ * kGqaOneDim * kElem;
    if (there) keys_ += (static_cast<long long>(sequence) * cache.sequence_rows + first) * cache_row_;
#pragma unroll 1
    for (int turn = 0; turn < a_.stages; ++turn) load_positions(turn);
  }
  __device__ __forceinline__ void load_positions(int turn) const {
    const int first = turn * Attend::kPositions, count = min(Attend::kPositions, places_ - first);
    if (count <= 0) return;
    std::uint64_t* const there = &memory_.rows_there[warp_][turn % a_.stages];
    if (lane_ == 0) barrier_expect(there, count * Attend::kRowBytes);
    __syncwarp();
    const int place = lane_ / 2, value = lane_ % 2;
    if (place >= count) return;
    const unsigned char* const key = keys_ + static_cast<long long>(first + place) * kStep * cache_row_;
    bulk_load(stages_ + turn % a_.stages * kStageBytes + place * Attend::kRowBytes + value * Attend::kValueBytes,
              key + value * p_.kv_heads * kGqaOneDim * kElem, Attend::kValueBytes, there);
  }

  __device__ __forceinline__ void load_norms() const {
    static_assert(kGqaOneThreads == 2 * kGqaOneDim);
    const float* const from = warp_ < kGqaOneWarps / 2 ? p_.q_norm : p_.k_norm;
    const int i = static_cast<int>(threadIdx.x) % kGqaOneDim;
    if (from != nullptr) memory_.norms[warp_ / (kGqaOneWarps / 2)][i] = from[i];
  }

  // The warp's share of the inputs, times the CTA's columns, to memory_.parts.
  __device__ __forceinline__ void project(const TrellisRef& other, const float4 (&weight)[kOneBlocks],
                                          const uint2 (&query_suh)[kOneBlocks], const uint2 (&other_suh)[kOneBlocks]) {
    float4 x[kOneBlocks], add[kOneBlocks];
#pragma unroll
    for (int b = 0; b < kOneBlocks; ++b) {
      const int k = input(b);
      const bool there = b < count_ && k < a_.norm.n;
      x[b] = add[b] = make_float4(0, 0, 0, 0);
      if (there) x[b] = __ldcg(reinterpret_cast<const float4*>(a_.norm.x + k));
      if (there && a_.norm.add != nullptr) add[b] = __ldcg(reinterpret_cast<const float4*>(a_.norm.add + k));
    }
    float squares = 0;
#pragma unroll
    for (int b = 0; b < kOneBlocks; ++b) {
      float4& s = x[b];
      s.x += add[b].x, s.y += add[b].y, s.z += add[b].z, s.w += add[b].w;
      if (blockIdx.x == 0 && b < count_) store_norm_sum(a_.norm, 0, input(b), s);
      squares = add_squares(squares, s);
      s.x *= weight[b].x, s.y *= weight[b].y, s.z *= weight[b].z, s.w *= weight[b].w;
    }
    const int inputs = a_.same_inputs ? 1 : 2, pairs = count_ * (kBandTiles / 2), bytes = row_bytes(other);
    unsigned char* const digits = digits_ + block_ * kBand;
    OneUnit query_unit{}, unit{};
#pragma unroll 1
    for (int i = 0; i < inputs; ++i) {
      float v[kOneBlocks][4];
#pragma unroll
      for (int b = 0; b < kOneBlocks; ++b) {
        const uint2 suh = i == 0 ? query_suh[b] : other_suh[b];
        const float2 low = __half22float2(as_half2(suh.x)), high = __half22float2(as_half2(suh.y));
        v[b][0] = x[b].x * low.x, v[b][1] = x[b].y * low.y, v[b][2] = x[b].z * high.x, v[b][3] = x[b].w * high.y;
      }
      float sum = squares;
      hadamard128_one(v, sum);
      if (lane_ == 0) memory_.squares[warp_] = sum;
      query_unit = unit;
      unit = store_one_digits(v, count_, digits + 2 * i * kDigitStride, kDigitStride);
    }
    __syncwarp();
    barrier_wait(&memory_.weights_there[warp_], 0);
    float* const parts = memory_.parts[warp_];
    const unsigned char* const tiles = own_rows(other);
    if (a_.same_inputs && a_.q.bits == other.bits) {
      multiply_one<kOneColumns>(other.bits, tiles, bytes, pairs, digits, kDigitStride, unit, parts);
      return;
    }
    multiply_one<kQueryColumns>(a_.q.bits, tiles, bytes, pairs, digits, kDigitStride, inputs == 1 ? unit : query_unit,
                                parts);
    multiply_one<kOtherColumns>(other.bits, tiles + 32 * kQueryColumns * a_.q.bits, bytes, pairs,
                                digits + 2 * (inputs - 1) * kDigitStride, kDigitStride, unit, parts + kQueryOutputs);
  }

  // Four outputs for one CTA by each of the first threads.
  __device__ __forceinline__ void send_outputs() const {
    constexpr int kQueryWords = kQueryOutputs / 4, kOtherWords = 4 * kOtherColumns;
    const int thread = static_cast<int>(threadIdx.x), others = thread - kQueryWords * kGqaCluster;
    if (others >= kOtherWords) return;
    const int word = others < 0 ? thread % kQueryWords : kQueryWords + others;
    const int to = others < 0 ? thread / kQueryWords : kGqaCluster - 1;
    const int place = others < 0 ? rank_ * kQueryOutputs + 4 * word
                                 : kGqaHeads * kGqaOneDim + rank_ * 16 * kOtherColumns + 4 * others;
    float squares = 0;
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int w = 0; w < kGqaOneWarps; ++w) {
      squares += memory_.squares[w];
      const float4 part = *reinterpret_cast<const float4*>(&memory_.parts[w][4 * word]);
      sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
    }
    const float factor = norm_factor(a_.norm, squares);
    send_to_cluster(reinterpret_cast<float4*>(&memory_.outputs[0][0] + place), &memory_.outputs_sent, to,
                    make_float4(sum.x * factor, sum.y * factor, sum.z * factor, sum.w * factor));
  }

  // By a warp: its head out of the outputs, where attention reads it.
  __device__ __forceinline__ void finish_head(uint2 svh, Rotation& rotation) const {
    barrier_wait_cluster(&memory_.outputs_sent, 0);
    float* const outputs = memory_.outputs[warp_];
    float4* const own = reinterpret_cast<float4*>(outputs + 4 * lane_);
    float v[4] = {own->x, own->y, own->z, own->w};
    hadamard128(v);
    const float2 low = __half22float2(as_half2(svh.x)), high = __half22float2(as_half2(svh.y));
    *own = make_float4(v[0] * low.x, v[1] * low.y, v[2] * high.x, v[3] * high.y);
    __syncwarp();
    const bool of_query = warp_ < kGqaHeads;
    const CacheRow<kType> row(memory_.new_row);
    if (warp_ == kGqaHeads + 1) {
      copy_elements<4>(
          kGqaOneDim, [&](int i) { return outputs[i]; }, [&](int i, float x) { row.store(kGqaOneDim + i, x); });
      return;
    }
    const float* const weight = memory_.norms[of_query ? 0 : 1];
    float* const query = memory_.query[of_query ? warp_ : 0];
    prepare_head(p_, rotation, outputs, (of_query ? p_.q_norm : p_.k_norm) != nullptr ? weight : nullptr,
                 [&](int i, float x) {
                   if (of_query) {
                     query[i] = x * a_.scale_log2;
                   } else {
                     row.store(i, x);
                   }
                 });
  }

  // The warp's positions, then its sums to memory.
  __device__ __forceinline__ void attend() const {
    Attend heads(memory_.query[0]);
    const int turns = (places_ + Attend::kPositions - 1) / Attend::kPositions;
    const int all = turns + (owns_row() && warp_ == kGqaOneWarps - 1 ? 1 : 0);  // and the row's own
    int stage = 0, parity = 0;
#pragma unroll 1
    for (int turn = 0; turn < all; ++turn) {
      const bool cached = turn < turns;
      if (cached) barrier_wait(&memory_.rows_there[warp_][stage], parity);
      heads.add(cached ? stages_ + stage * kStageBytes : memory_.new_row,
                cached ? places_ - turn * Attend::kPositions : 1);
      if (!cached) break;
      __syncwarp();
      load_positions(turn + a_.stages);
      if (++stage == a_.stages) stage = 0, parity ^= 1;
    }
    heads.join();
    float* const to = warp_sums(warp_) + kCachePiece * Attend::lane();
#pragma unroll
    for (int h = 0; h < kGqaHeads; ++h) {
      if (h % 2 != Attend::group()) continue;
      const float(&v)[kCachePiece] = heads.sum[h];
      reinterpret_cast<float4*>(to + h * kGqaOneDim)[0] = make_float4(v[0], v[1], v[2], v[3]);
      reinterpret_cast<float4*>(to + h * kGqaOneDim)[1] = make_float4(v[4], v[5], v[6], v[7]);
      if (Attend::lane() == 0) memory_.statistics[warp_][h] = make_float2(heads.most[h], heads.total[h]);
    }
  }

  // [kGqaHeads][kGqaOneDim]
  __device__ __forceinline__ float* warp_sums(int warp) const {
    return reinterpret_cast<float*>(coded_) + warp * (kGqaHeads * kGqaOneDim);
  }

  // Four sums over the CTA's positions by each of the first threads, for the CTA that finishes them.
  __device__ __forceinline__ void send_sums() const {
    const int word = static_cast<int>(threadIdx.x);
    if (word >= kGqaHeads * kGqaOneDim / 4) return;
    constexpr int kMergedWords = kMergedOutputs / 4;
    const int head = word / (kGqaOneDim / 4), to = word / kMergedWords;
    float most = kNoScore, total = 0;
#pragma unroll
    for (int w = 0; w < kGqaOneWarps; ++w) most = fmaxf(most, memory_.statistics[w][head].x);
    const float4 sum = merge_parts<kGqaOneWarps>(
        most == kNoScore ? 0.0f : most, [&](int w) { return memory_.statistics[w][head]; },
        [&](int w) { return *reinterpret_cast<const float4*>(warp_sums(w) + 4 * word); }, total);
    send_to_cluster(reinterpret_cast<float4*>(&memory_.gathered[rank_][4 * (word % kMergedWords)]), &memory_.sums_sent,
                    to, sum);
    if (word % kMergedWords == 0) {
      send_to_cluster(&memory_.gathered_statistics[rank_], &memory_.sums_sent, to, make_float4(most, total, 0, 0));
    }
  }

  // By a warp: the CTA's outputs.
  __device__ __forceinline__ void merge() const {
    static_assert(kMergedOutputs == 32);
    barrier_wait_cluster(&memory_.sums_sent, 0);
    float most = kNoScore, total = 0, sum = 0;
#pragma unroll
    for (int c = 0; c < kGqaCluster; ++c) most = fmaxf(most, memory_.gathered_statistics[c].x);
#pragma unroll
    for (int c = 0; c < kGqaCluster; ++c) {
      const float4 of_part = memory_.gathered_statistics[c];
      const float factor = exp2f(of_part.x - most);
      total = fmaf(factor, of_part.y, total);
      sum = fmaf(factor, memory_.gathered[c][lane_], sum);
    }
    a_.out[first_head_ * kGqaOneDim + rank_ * kMergedOutputs + lane_] = __float2half_rn(sum / total);
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

  const GqaOneArgs& a_;
  const GqaPrepare& p_;
  GqaOneMemory& memory_;
  unsigned char* const digits_;     // [inputs][2][kDigitStride]
  unsigned char *stages_, *coded_;  // the warp's; the CTA's
  const int warp_, lane_, rank_, first_head_, kv_head_;
  int block_, count_;  // of inputs, the warp's
  int places_, cache_row_;
  const unsigned char* keys_;  // of its first place
};

template <CacheType kType>
__global__ void __launch_bounds__(kGqaOneThreads, 2) gqa_one_kernel(const __grid_constant__ GqaOneArgs args) {
  if constexpr (kCodeHasClusters) {
    GqaOneCta<kType>(args).run();
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
