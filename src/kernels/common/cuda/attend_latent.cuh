// One CTA: the queries of a row meet the positions of its split, up to 128 at a time, where keys are one head and
// values are their first elements: latent attention. For decode steps whose positions are shared by all CTAs of the
// device, so that each has 128 or few more: they are loaded before the kernel ahead has ended.
//
// Keys lie in shared memory as halves, whatever the cache has, by blocks of 64 elements: what the tensor instructions
// of four warps read, and once for all queries. Their rows are positions for the scores, with the queries as columns,
// and values for the sums, with probabilities. Two groups of four warps share the positions and then the values.
//
// A fourth of the CTAs find no room before the kernel ahead ends, so what they do before they ask for keys is on the
// way of all: no divisions, and no checks where a warp's rows are all there.
//
// With few positions it lets the next kernel start before its own wait, so that what that one does early is over when
// this one ends; with more that would slow the loads of keys. It is safe because what follows, the merge of the splits,
// reads nothing early that this or the kernel ahead writes.
#pragma once

#include <cuda_fp16.h>

#include "kernels/common/cuda/attend_args.cuh"
#include "kernels/common/cuda/attend_fragments.cuh"
#include "kernels/common/cuda/attend_unit.cuh"
#include "kernels/common/cuda/hopper.cuh"

namespace fairway::kernels::cuda {

// Beside a CTA, an SM has registers and shared memory for two of the kernel that merges splits.
constexpr int kLatentRegisters = 128;
constexpr int kLatentQueries = 24, kLatentQueryTiles = kLatentQueries / 8;
constexpr int kLatentTiles = 2, kLatentPositions = kLatentTiles * kAttendTile;  // at a time
constexpr int kLatentBlock = 64;                                                // elements of a position, 128 bytes
constexpr int kLatentMaxBlocks = kMaxKeyDim / kLatentBlock;
constexpr int kLatentRowBytes = 128;
constexpr int kLatentKeyBytes = kLatentPositions * kLatentRowBytes,
              kLatentQueryBytes = kLatentQueries * kLatentRowBytes;
constexpr int kLatentValueTiles = kMaxValueDim / kLatentBlock / 2;  // of a group of four warps
constexpr int kLatentStatistics = kAttendWarps * kLatentQueries;    // floats

__host__ __device__ constexpr int latent_blocks(int elements) {
  return (elements + kLatentBlock - 1) / kLatentBlock;
}
// Of queries, and then of outputs: rows of the most values, so that places in them are known.
constexpr int kLatentOutputStride = 2 * kMaxValueDim + kPieceBytes;  // bytes
__host__ __device__ constexpr int latent_query_bytes(int blocks) {
  constexpr int kOutputs = kLatentQueries * kLatentOutputStride;
  return blocks * kLatentQueryBytes > kOutputs ? blocks * kLatentQueryBytes : (kOutputs + 1023) / 1024 * 1024;
}
// Blocks of keys, of queries, of probabilities, then statistics of warps.
inline int latent_shared_bytes(const AttendArgs& args) {
  const int blocks = latent_blocks(args.call.key_dim);
  return blocks * kLatentKeyBytes + latent_query_bytes(blocks) + kLatentTiles * kLatentQueryBytes +
         2 * kLatentStatistics * static_cast<int>(sizeof(float));
}

// Sizes of GLM-4.7-Flash, which code has as constants.
constexpr int kUsualKey = 576, kUsualValue = 512;

// kUsual: the sizes are these.
template <CacheType kType, bool kUsual>
class LatentAttendCta {
  static constexpr int kElemBytes = cache_type_bytes(kType);
  static constexpr int kWarpRows = kLatentPositions / kAttendWarps;  // that a warp copies
  // Blocks that E4M3 is converted by at a time.
  static constexpr int kBatch = kType == CacheType::kE4m3 ? 3 : kLatentMaxBlocks, kBatches = kLatentMaxBlocks / kBatch;
  // Warps that fetch the queries. With E4M3 others convert keys before the kernel ahead has ended, if there is time.
  static constexpr int kQueryWarps = kType == CacheType::kE4m3 ? 2 : kAttendWarps;
  static constexpr int kPairs = 2 * kLatentQueryTiles;  // queries of a lane's sums
  static constexpr float kNone = -__builtin_huge_valf();

 public:
  __device__ explicit LatentAttendCta(const AttendArgs& args)
      : args_(args),
        thread_(static_cast<int>(threadIdx.x)),
        warp_(__shfl_sync(0xFFFFFFFFu, thread_ >> 5, 0)),  // so that the compiler knows that a warp's are the same
        lane_(thread_ & 31),
        group_(warp_ >> 2) {
    keys_ = dynamic_shared<unsigned char>();
    queries_ = keys_ + blocks() * kLatentKeyBytes;
    probabilities_ = queries_ + latent_query_bytes(blocks());
    maxima_ = reinterpret_cast<float*>(probabilities_ + kLatentTiles * kLatentQueryBytes);
    totals_ = maxima_ + kLatentStatistics;
  }

  __device__ void run() {
    if (args_.call.fresh == 0) wait_for_previous_kernel();
    const AttendUnit unit(args_, kElemBytes);
    const AttendSpan span = attend_span(unit.last_position, args_.splits, static_cast<int>(blockIdx.z));
    const int end = min(span.end * kAttendTile, unit.last_position + 1);
    int first = span.begin * kAttendTile;
    const int settled = args_.call.fresh == 0 ? end : min(unit.settled, end);
    const bool few = span.end - span.begin < kLatentTiles;
    if (few) let_next_kernel_start();  // see the note above
    copy_keys(unit, first, end, settled);
    const bool fetches = warp_ >= kAttendWarps - kQueryWarps;
    if (!fetches && first < end) convert_keys(min(end - first, kLatentPositions), settled - first);
    wait_for_previous_kernel();
    if (!few) let_next_kernel_start();
    if (first >= end) return;
    if (fetches) {
      copy_queries(unit);
      convert_keys(min(end - first, kLatentPositions), settled - first);
    }
    if (settled < min(end, first + kLatentPositions)) {
      __syncthreads();  // what waited to be converted is no longer where they belong
      late_keys(unit, first, max(first, settled), min(end, first + kLatentPositions));
    }
    start();
    bool is_first = true;
#pragma unroll 1
    while (true) {
      copy_async_commit();
      copy_async_wait<0>();
      fence_for_wgmma();
      __syncthreads();
      const int count = min(end - first, kLatentPositions);
      first += kLatentPositions;
      const bool last = first >= end;
      score(count, is_first);
      gather(unit, count, last);
      if (last) break;
      is_first = false;
      __syncthreads();  // keys and probabilities are no longer read
      copy_keys(unit, first, end, end);
      convert_keys(min(end - first, kLatentPositions), kLatentPositions);
    }
    finish(unit);
  }

 private:
  __device__ __forceinline__ int key_dim() const {
    return kUsual ? kUsualKey : args_.call.key_dim;
  }
  __device__ __forceinline__ int value_dim() const {
    return kUsual ? kUsualValue : args_.call.value_dim;
  }
  __device__ __forceinline__ int blocks() const {
    return latent_blocks(key_dim());
  }
  __device__ __forceinline__ int key_pieces() const {
    return kUsual ? kUsualKey * kElemBytes / kPieceBytes : args_.key_pieces;
  }
  // Positions that are there, or are zeros, of `count`.
  __device__ static __forceinline__ int filled(int count) {
    return min((count + kAttendTile - 1) & -kAttendTile, kLatentPositions);
  }

  // A row's 16-byte piece of a block.
  __device__ static __forceinline__ int piece(int row, int column) {
    return row * kLatentRowBytes + ((column ^ (row & 7)) << 4);
  }

  // Positions from `first` on, before `stop`; zeros for those from `end` on that fill up a tile, and for elements that
  // fill up a block: whatever shared memory has there could be NaN, and stays NaN when it is multiplied by zero. A warp
  // copies its 16 rows. Halves go where they belong. E4M3 goes to the second half of that, which has as many bytes,
  // where the thread that copied it finds it again, in kBatches groups of copies. The copies do not read through the
  // first-level cache, which could have a part of a row that another kernel has written since the launch began.
  __device__ __forceinline__ void copy_keys(const AttendUnit& unit, int first, int end, int stop) const {
    if (kUsual && first + kWarpRows * (warp_ + 1) <= stop) {
      copy_rows<true>(unit, first, end, stop);
    } else {
      copy_rows<false>(unit, first, end, stop);
    }
  }
  // kWhole: all of the warp's rows, of kUsual.
  template <bool kWhole>
  __device__ __forceinline__ void copy_rows(const AttendUnit& unit, int first, int end, int stop) const {
    constexpr int kLanes = 4 * kElemBytes, kRows = 32 / kLanes;  // lanes of a block: 16 bytes each
    const int lane = lane_ & (kLanes - 1);
    const auto copy = [&](int i, int begin) {
      const int r = kWarpRows * warp_ + lane_ / kLanes + kRows * i, position = first + r;
      const bool beyond = !kWhole && position >= end;
      if (!kWhole && (r >= filled(end - first) || (position >= stop && !beyond))) return;
      const unsigned char* const from = unit.row_at(beyond ? 0 : position, lane * kPieceBytes);
      unsigned char* const to = keys_ + (kType == CacheType::kHalf ? piece(r, lane) : waiting_piece(i));
#pragma unroll(kWhole ? kBatch : 1)
      for (int b = 0; b < kBatch; ++b) {
        const int block = begin + b;
        if (block >= blocks()) break;
        const bool absent = beyond || kLanes * block + lane >= key_pieces();
        copy_async_16(to + block * kLatentKeyBytes, from + block * kLanes * kPieceBytes, !kWhole && absent);
      }
    };
#pragma unroll(kWhole ? kBatches : 1)
    for (int batch = 0; batch < kBatches; ++batch) {
#pragma unroll(kWhole ? kWarpRows / kRows : 1)
      for (int i = 0; i < kWarpRows / kRows; ++i) copy(i, kBatch * batch);
      if (kType == CacheType::kE4m3) copy_async_commit();
    }
  }
  // In a block, of the lane's `i`th row of E4M3.
  __device__ __forceinline__ int waiting_piece(int i) const {
    constexpr int kBytes = kWarpRows * kLatentRowBytes;
    return warp_ * kBytes + kBytes / 2 + (lane_ + 32 * i) * kPieceBytes;
  }

  // Positions [begin, end) that the kernel ahead may have written. Position `first` is row 0.
  __device__ __forceinline__ void late_keys(const AttendUnit& unit, int first, int begin, int end) const {
    constexpr int kMost = 128;  // pieces of a position
    static_assert(kMaxKeyDim * 2 / kPieceBytes <= kMost);
#pragma unroll 1
    for (int i = thread_; i < (end - begin) * kMost; i += kAttendThreads) {
      const int c = i % kMost, position = begin + i / kMost, row = position - first;
      if (c >= 4 * kElemBytes * blocks()) continue;
      const bool absent = c >= key_pieces();
      const unsigned char* const from = unit.row_at(position, (absent ? 0 : c) * kPieceBytes);
      unsigned char* const block = keys_ + c / (4 * kElemBytes) * kLatentKeyBytes;
      if constexpr (kType == CacheType::kE4m3) {
        const uint4 v = absent ? make_uint4(0, 0, 0, 0) : __ldcg(reinterpret_cast<const uint4*>(from));
        store_halves_of(block, row, c % 4, v);
      } else {
        copy_async_16(block + piece(row, c % 8), from, absent);
      }
    }
  }

  // E4M3 to halves: `count` positions, by the threads that copied them, a batch of blocks when it is there. What waits
  // where others of the warp's positions belong is in registers before anything is stored there. Rows from `late` on
  // are those of late_keys().
  __device__ __forceinline__ void convert_keys(int count, int late) const {
    if constexpr (kType == CacheType::kE4m3) {
      if (kUsual && kWarpRows * (warp_ + 1) <= min(count, late)) {
        convert_rows<true>(count, late);
      } else if (kWarpRows * warp_ < filled(count)) {
        convert_rows<false>(count, late);
      }
    }
  }
  template <bool kWhole>
  __device__ __forceinline__ void convert_rows(int count, int late) const {
    const int lane = lane_ & 3, row = kWarpRows * warp_ + (lane_ >> 2);
    const auto mine = [&](int r) { return kWhole || r < late || r >= count; };
#pragma unroll(kWhole ? kBatches : 1)
    for (int begin = 0; begin < blocks(); begin += kBatch) {
      wait_for_batch(begin / kBatch);
      const unsigned char* const from = keys_ + begin * kLatentKeyBytes;
      uint4 early[kBatch], other[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int block = kUsual ? i : min(i, blocks() - 1 - begin);
        early[i] = *reinterpret_cast<const uint4*>(from + block * kLatentKeyBytes + waiting_piece(0));
        other[i] = *reinterpret_cast<const uint4*>(from + block * kLatentKeyBytes + waiting_piece(1));
      }
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (begin + i >= blocks()) break;
        unsigned char* const to = keys_ + (begin + i) * kLatentKeyBytes;
        if (mine(row)) store_halves_of(to, row, lane, early[i]);
        if (mine(row + 8)) store_halves_of(to, row + 8, lane, other[i]);
      }
    }
  }
  // Groups are those of copy_keys(). Queries are in none yet.
  __device__ static __forceinline__ void wait_for_batch(int batch) {
    static_assert(kType != CacheType::kE4m3 || kBatches == 3);
    if (batch == 0) {
      copy_async_wait<kBatches - 1>();
    } else if (batch == 1) {
      copy_async_wait<kBatches - 2>();
    } else {
      copy_async_wait<0>();
    }
  }
  // Piece `lane` of a block of E4M3.
  __device__ static __forceinline__ void store_halves_of(unsigned char* block, int row, int lane, uint4 v) {
    *reinterpret_cast<uint4*>(block + piece(row, 2 * lane)) = halves_of(v.x, v.y);
    *reinterpret_cast<uint4*>(block + piece(row, 2 * lane + 1)) = halves_of(v.z, v.w);
  }
  __device__ static __forceinline__ uint4 halves_of(unsigned low, unsigned high) {
    const uint2 a = four_halves_from_e4m3(low), b = four_halves_from_e4m3(high);
    return make_uint4(a.x, a.y, b.x, b.y);
  }

  // By the last kQueryWarps. Zeros for queries that the unit lacks.
  __device__ __forceinline__ void copy_queries(const AttendUnit& unit) const {
    constexpr int kRows = 4 * kQueryWarps;
    const int lane = lane_ & 7, pieces = key_dim() / 8;
    const int row = 4 * (warp_ - (kAttendWarps - kQueryWarps)) + (lane_ >> 3);
#pragma unroll
    for (int i = 0; i < kLatentQueries; i += kRows) {
      const int n = row + i;
      if (kRows > kLatentQueries && n >= kLatentQueries) return;
      const bool lacks = n >= unit.count;
      const __half* const from =
          args_.call.q + static_cast<long long>(unit.first + (lacks ? 0 : n)) * key_dim() + 8 * lane;
      unsigned char* const to = queries_ + piece(n, lane);
#pragma unroll
      for (int b = 0; b < kLatentMaxBlocks; ++b) {
        if (b >= blocks()) break;
        const bool absent = !kUsual && 8 * b + lane >= pieces;
        copy_async_16(to + b * kLatentQueryBytes, from + b * kLatentBlock, lacks || absent);
      }
    }
  }

  __device__ __forceinline__ void start() {
    largest_ = kNone;
    for (int j = 0; j < kLatentQueryTiles; ++j) {
      total_[j] = make_float2(0, 0);
      for (int i = 0; i < kLatentValueTiles; ++i) {
        for (int e = 0; e < 4; ++e) sums_[i][j][e] = 0;
      }
    }
  }

  // Scores of `count` positions, their maxima, and probabilities. Element e of a lane's s[j] is position lane / 4 +
  // 8 * (e / 2) of the warp's 16, query 8 j + 2 * (lane % 4) + e % 2.
  __device__ __forceinline__ void score(int count, bool first) {
    unsigned keys = swizzled_rows(keys_ + group_ * kAttendTile * kLatentRowBytes), queries = swizzled_rows(queries_);
    float s[kLatentQueryTiles][4] = {};
    int block = group_ * kAttendTile < count ? 0 : blocks() - 1;  // scores of no position are not used
#pragma unroll 1
    do {
      wgmma_fence();
#pragma unroll
      for (unsigned i = 0; i < kLatentBlock / 16; ++i) {
        wgmma_half_24<false>(s, keys + i * kWgmmaNextColumns, queries + i * kWgmmaNextColumns);
      }
      wgmma_commit();
      keys += kLatentKeyBytes >> 4, queries += kLatentQueryBytes >> 4;
    } while (++block < blocks());
    wgmma_wait<0>();
    wgmma_settle(s);
    if (count < kLatentPositions) {
      const int row = 16 * warp_ + (lane_ >> 2);
      for (int j = 0; j < kLatentQueryTiles; ++j) {
        for (int e = 0; e < 4; ++e) s[j][e] = row + e / 2 * 8 < count ? s[j][e] : kNone;
      }
    }
    float most[kPairs];
    for (int j = 0; j < kLatentQueryTiles; ++j) {
      most[2 * j] = fmaxf(s[j][0], s[j][2]), most[2 * j + 1] = fmaxf(s[j][1], s[j][3]);
    }
    leave(most, maxima_, Largest());
    __syncthreads();
    exponentials(s, first);
    fence_for_wgmma();
    __syncthreads();
  }

  struct Largest {
    __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
  };
  struct Sum {
    __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
  };
  // A warp's result for each query from its lanes' values of queries 8 j + 2 * (lane % 4) + e, which are number 2 j +
  // e: to [numbers, lane % 4] of the warp's.
  template <class Op>
  __device__ __forceinline__ void leave(const float (&v)[kPairs], float* of_warps, const Op& op) const {
    constexpr int kHalf = kPairs / 2;
    const bool upper = lane_ >= 16;  // has the later numbers
    float half[kHalf];
    for (int i = 0; i < kHalf; ++i) {
      const float other = __shfl_xor_sync(0xFFFFFFFFu, upper ? v[i] : v[i + kHalf], 16);
      half[i] = op(upper ? v[i + kHalf] : v[i], other);
    }
    for (int d = 8; d >= 4; d /= 2) {
      for (float& h : half) h = op(h, __shfl_xor_sync(0xFFFFFFFFu, h, d));
    }
    if ((lane_ & 12) != 0) return;
    float* const to = of_warps + warp_ * kLatentQueries + 4 * (upper ? kHalf : 0) + (lane_ & 3);
    for (int i = 0; i < kHalf; ++i) to[4 * i] = half[i];
  }
  // The result of all warps for query `lane`, with what leave() has left.
  template <class Op>
  __device__ __forceinline__ float of_all(const float* of_warps, const Op& op) const {
    const int query = min(lane_, kLatentQueries - 1), number = 2 * (query >> 3) + (query & 1);
    const float* const mine = of_warps + 4 * number + (query >> 1 & 3);
    float v[kAttendWarps];
    for (int w = 0; w < kAttendWarps; ++w) v[w] = mine[w * kLatentQueries];
    for (int n = kAttendWarps / 2; n > 0; n /= 2) {
      for (int w = 0; w < n; ++w) v[w] = op(v[w], v[w + n]);
    }
    return v[0];
  }
  // Of queries 8 j + 2 * (lane % 4) and the next, from the lanes of these queries.
  __device__ __forceinline__ float2 of_queries(float of_lane, int j) const {
    const int query = 8 * j + 2 * (lane_ & 3);
    return make_float2(__shfl_sync(0xFFFFFFFFu, of_lane, query), __shfl_sync(0xFFFFFFFFu, of_lane, query + 1));
  }

  __device__ __forceinline__ void exponentials(const float (&s)[kLatentQueryTiles][4], bool first) {
    const float before = largest_;
    largest_ = fmaxf(before, of_all(maxima_, Largest()));  // finite: every iteration has a position
    if (!first) {
      const float of_lane = power_of_two((before - largest_) * args_.scale_log2);
      for (int j = 0; j < kLatentQueryTiles; ++j) {
        const float2 factor = of_queries(of_lane, j);
        total_[j].x *= factor.x, total_[j].y *= factor.y;
        for (int i = 0; i < kLatentValueTiles; ++i) {
          sums_[i][j][0] *= factor.x, sums_[i][j][1] *= factor.y;
          sums_[i][j][2] *= factor.x, sums_[i][j][3] *= factor.y;
        }
      }
    }
    const float shift = -largest_ * args_.scale_log2;
    for (int j = 0; j < kLatentQueryTiles; ++j) {
      const float2 most = of_queries(shift, j);
      const auto power = [&](int e) {
        return power_of_two(fmaf(s[j][e], args_.scale_log2, e % 2 == 0 ? most.x : most.y));
      };
      for (int i = 0; i < 2; ++i) rounded_[j][i] = __floats2half2_rn(power(2 * i), power(2 * i + 1));
      const unsigned pairs[2] = {*reinterpret_cast<const unsigned*>(&rounded_[j][0]),
                                 *reinterpret_cast<const unsigned*>(&rounded_[j][1])};
      store_matrices_transposed_x2(
          probabilities_ + group_ * kLatentQueryBytes + piece(8 * j + (lane_ & 7), 2 * (warp_ & 3) + (lane_ >> 3 & 1)),
          pairs);
    }
  }

  // The sum is that of the rounded probabilities, the ones that the values get.
  __device__ __forceinline__ void add_totals() {
    for (int j = 0; j < kLatentQueryTiles; ++j) {
      for (const __half2 p : rounded_[j]) {
        total_[j].x += __low2float(p);
        total_[j].y += __high2float(p);
      }
    }
  }

  // Makes 1 / sum of all probabilities, which is not zero since the largest score's is 1, of total_.
  __device__ __forceinline__ void take_totals(const AttendUnit& unit) {
    float mine[kPairs];
    for (int j = 0; j < kLatentQueryTiles; ++j) mine[2 * j] = total_[j].x, mine[2 * j + 1] = total_[j].y;
    leave(mine, totals_, Sum());
    __syncthreads();
    const float total = of_all(totals_, Sum()), inverse = __fdividef(1.0f, total);
    for (int j = 0; j < kLatentQueryTiles; ++j) total_[j] = of_queries(inverse, j);
    if (thread_ < unit.count) {
      args_.weights[static_cast<unsigned>((unit.first + thread_) * args_.splits) + blockIdx.z] =
          fmaf(largest_, args_.scale_log2, log2f(total));
    }
  }

  // sums += values^T probabilities, in tiles of positions: of those beyond the last, values and probabilities are
  // zeros. A tile of values beyond the last is computed like that, and not stored.
  __device__ __forceinline__ void gather(const AttendUnit& unit, int count, bool last) {
    const int last_block = value_dim() / kLatentBlock - 1;
    unsigned values[kLatentValueTiles];
    for (int i = 0; i < kLatentValueTiles; ++i) {
      const int block = group_ + 2 * i;
      values[i] = swizzled_rows(keys_ + (kUsual ? block : min(block, last_block)) * kLatentKeyBytes);
    }
    unsigned probabilities = swizzled_rows(probabilities_);
    int begin = 0;
#pragma unroll 1
    do {
      wgmma_fence();
#pragma unroll
      for (unsigned step = 0; step < kAttendTile / 16; ++step) {
#pragma unroll
        for (int i = 0; i < kLatentValueTiles; ++i) {
          wgmma_half_24<true>(sums_[i], values[i] + step * kWgmmaNextRows, probabilities + step * kWgmmaNextColumns);
        }
      }
      wgmma_commit();
      for (unsigned& v : values) v += kAttendTile / 16 * kWgmmaNextRows;
      probabilities += kLatentQueryBytes >> 4;
    } while ((begin += kAttendTile) < count);
    add_totals();
    if (last) take_totals(unit);
    wgmma_wait<0>();
    for (int i = 0; i < kLatentValueTiles; ++i) wgmma_settle(sums_[i]);
  }

  // The queries are no longer read, and make room for the outputs.
  __device__ __forceinline__ void finish(const AttendUnit& unit) {
    unsigned char* const mine = queries_ + group_ * kLatentRowBytes + 32 * (warp_ & 3);
    for (int j = 0; j < kLatentQueryTiles; ++j) {
      for (int i = 0; i < kLatentValueTiles; ++i) {  // tiles beyond the last go where nothing reads
        AttendFragments<CacheType::kHalf>::store_values(mine + 8 * j * kLatentOutputStride + 2 * i * kLatentRowBytes,
                                                        kLatentOutputStride, lane_, sums_[i][j], total_[j]);
      }
    }
    __syncthreads();
    const unsigned stride = static_cast<unsigned>(args_.splits * value_dim());  // between queries
    __half* const to = args_.partial + blockIdx.z * static_cast<unsigned>(value_dim()) + 8 * lane_;
    const unsigned char* const from = queries_ + 16 * lane_;
#pragma unroll
    for (int i = 0; i < kLatentQueries / kAttendWarps; ++i) {
      const int n = warp_ + kAttendWarps * i;
      if (n >= unit.count) break;
#pragma unroll
      for (int c = 0; c < kMaxValueDim / 8; c += 32) {
        if (!kUsual && 8 * (c + lane_) >= value_dim()) break;
        *reinterpret_cast<uint4*>(to + static_cast<unsigned>(unit.first + n) * stride + 8 * c) =
            *reinterpret_cast<const uint4*>(from + n * kLatentOutputStride + 16 * c);
      }
    }
  }

  const AttendArgs& args_;
  const int thread_, warp_, lane_, group_;  // group: of four warps
  unsigned char *keys_, *queries_, *probabilities_;
  float *maxima_, *totals_;  // [warps, queries]

  float largest_;                          // score of query `lane`, before its scale
  __half2 rounded_[kLatentQueryTiles][2];  // probabilities, in the order of the scores
  // Of queries 8 j + 2 * (lane % 4) and the next, of this lane's positions.
  float2 total_[kLatentQueryTiles];
  float sums_[kLatentValueTiles][kLatentQueryTiles][4];
};

}  // namespace fairway::kernels::cuda
