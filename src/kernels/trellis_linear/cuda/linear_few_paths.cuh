// What differs between integers and halves in the kernel for few rows and weights. Sixteen warps: four share the tiles
// of a tile row, each two of them, and each such group has two tile rows of a block.
#pragma once

#include "kernels/trellis_band/cuda/int_band.cuh"
#include "kernels/trellis_linear/cuda/linear_paths.cuh"

namespace fairway::kernels::cuda {

constexpr int kFewWarps = 16;
constexpr int kMaxFewBlocks = 8;  // of a CTA

constexpr int kFewTiles = 2;  // side by side, of a warp
constexpr int kFewColumnParts = kBandTiles / kFewTiles;
constexpr int kFewRowParts = kFewWarps / kFewColumnParts;
static_assert(kFewRowParts == kIntRowParts);

// The coded weights of a CTA: a stage for each block, that of block i is there when full[i] says so.
struct FewWeights {
  RingBarriers& barriers;
  const unsigned char* coded;
  int stage_bytes, blocks;
  LanePlace place;

  // The warp's first tile of the first block.
  template <int kBits>
  __device__ __forceinline__ const unsigned char* tiles() const {
    const int warp = threadIdx.x >> 5;
    return coded + (2 * (warp / kFewColumnParts) * kBandTiles + warp % kFewColumnParts * kFewTiles) * (32 * kBits);
  }
};

// Up to four rows as 15-bit integers, two columns of digits each.
struct FewIntPath {
  using Band = IntBand<1>;
  using Shared = Band::Shared;
  static constexpr int kRows = Band::kTokens;
  static constexpr int kWarps = kFewWarps;
  static constexpr bool kStreamsRows = false;
  static constexpr int kNormBlocks = kRows * kMaxFewBlocks;
  static constexpr int kColumns = 2;  // of a row
  static constexpr int kBlockBytes = kBand, kPadBytes = 32;

  static __device__ __forceinline__ void clear(Shared& shared, int row) {
    shared.largest[row] = shared.digit_sum[row] = 0;
  }
  static __device__ __forceinline__ void set_unit(Shared& shared, int row) { Band::set_unit(shared, row); }
  static __device__ __forceinline__ float factor(const Shared& shared, int row) {
    return Band::inverse_unit(shared, row);
  }
  // v: four elements of a block of a row, times factor(). block: where the row's first column has it.
  static __device__ __forceinline__ void store(Shared& shared, int row, unsigned char* block, int stride, float4 v) {
    const int k = 4 * (threadIdx.x & 31);
    Band::add_digit_sum(
        shared, row, Band::store_pair(block, stride, k, v.x, v.y) + Band::store_pair(block, stride, k + 2, v.z, v.w));
  }

  template <int kBits>
  static __device__ __forceinline__ void walk(const FewWeights& w, const unsigned char* in,
                                              int (&acc)[kFewTiles][1][4]) {
    const LaneStream<kBits> stream(w.place);
    const unsigned char* tiles = w.tiles<kBits>();
#pragma unroll 1
    for (int block = 0; block < w.blocks; ++block, tiles += w.stage_bytes, in += kBlockBytes) {
      const uint2 digits = *reinterpret_cast<const uint2*>(in);
      barrier_wait(&w.barriers.full[block], 0);
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        u32 b[1][4];
        repeat_digits(row == 0 ? digits.x : digits.y, b[0]);
#pragma unroll
        for (int tile = 0; tile < kFewTiles; ++tile) {
          u32 words[LaneStream<kBits>::kWords], x[8];
          stream.read(tiles + (row * kBandTiles + tile) * (32 * kBits), words);
          tile_windows<kBits>(stream, words, x);
          multiply_tile<1>(x, b, acc[tile]);
        }
      }
    }
  }

  // The sums of the warps' parts into shared.sums.
  static __device__ __forceinline__ void multiply(const FewWeights& w, const TrellisRef& m, int rows,
                                                  const unsigned char* input, int stride, Shared& shared) {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int column = min(lane >> 2, kColumns * rows - 1);  // nobody looks at the sums of those beyond
    const unsigned char* const in = input + column * stride + (warp / kFewColumnParts) * 32 + (lane & 3) * 8;
    int acc[kFewTiles][1][4] = {};
    switch (m.bits) {
#define FAIRWAY_CASE(bits)  \
  case bits:                \
    walk<bits>(w, in, acc); \
    break;
      FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
    }
    float* const sums =
        shared.sums[warp / kFewColumnParts][lane & 3] + (warp % kFewColumnParts) * kFewTiles * 16 + (lane >> 2);
#pragma unroll
    for (int tile = 0; tile < kFewTiles; ++tile) {
      const int* c = acc[tile][0];
      sums[16 * tile] = 128.0f * static_cast<float>(c[0]) + static_cast<float>(c[1]);
      sums[16 * tile + 8] = 128.0f * static_cast<float>(c[2]) + static_cast<float>(c[3]);
    }
  }

  static __device__ __forceinline__ float4 sums_of(const Shared& shared, int row, int column) {
    return Band::sums_of(shared, row, column);
  }
};

// Rows as halves, scaled by a power of two of the row, so that any size of it is right.
template <int kGroupCount>
struct FewHalfPath {
  static constexpr int kGroups = kGroupCount;
  static constexpr int kRows = 8 * kGroups;
  static constexpr int kWarps = kFewWarps;
  static constexpr bool kStreamsRows = false;
  static constexpr int kNormBlocks = kRows * kMaxFewBlocks;
  static constexpr int kColumns = 1;
  static constexpr int kBlockBytes = 2 * kBand, kPadBytes = 64;

  struct Shared {
    alignas(16) float sums[kFewRowParts][kRows][kInnerStride];
    int largest[kRows];  // of |input|, as the bits of a float
    float unit[kRows];   // what the halves are multiples of
  };

  static __device__ __forceinline__ void clear(Shared& shared, int row) { shared.largest[row] = 0; }
  // Brings the largest input near the upper end of halves.
  static __device__ __forceinline__ int exponent(const Shared& shared, int row) {
    return min(14 + 127 - (shared.largest[row] >> 23), 126);
  }
  static __device__ __forceinline__ float power_of_two(int exponent) { return __int_as_float((exponent + 127) << 23); }
  static __device__ __forceinline__ void set_unit(Shared& shared, int row) {
    shared.unit[row] = power_of_two(-exponent(shared, row));
  }
  static __device__ __forceinline__ float factor(const Shared& shared, int row) {
    return power_of_two(exponent(shared, row));
  }
  static __device__ __forceinline__ void store(Shared&, int, unsigned char* block, int, float4 v) {
    const int k = 4 * (threadIdx.x & 31);
    __half* const halves = reinterpret_cast<__half*>(block);
    *reinterpret_cast<__half2*>(halves + fragment_order(k)) = __floats2half2_rn(v.x, v.y);
    *reinterpret_cast<__half2*>(halves + fragment_order(k + 2)) = __floats2half2_rn(v.z, v.w);
  }

  template <int kBits, bool kMul1>
  static __device__ __forceinline__ void walk(const FewWeights& w, const unsigned char* in, int stride,
                                              SumCodebook codebook, float (&acc)[kFewTiles][kGroups][4]) {
    const LaneStream<kBits> stream(w.place);
    const unsigned char* tiles = w.tiles<kBits>();
#pragma unroll 1
    for (int block = 0; block < w.blocks; ++block, tiles += w.stage_bytes, in += kBlockBytes) {
      barrier_wait(&w.barriers.full[block], 0);
      multiply_held_tokens<kBits, kMul1>(stream, tiles, in, stride, codebook, acc);
    }
  }

  static __device__ __forceinline__ void multiply(const FewWeights& w, const TrellisRef& m, int,
                                                  const unsigned char* input, int stride, Shared& shared) {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const unsigned char* const in = input + (lane >> 2) * stride + warp / kFewColumnParts * 64 + (lane & 3) * 16;
    float acc[kFewTiles][kGroups][4] = {};
    const auto codebook = static_cast<codec::Codebook>(m.codebook);
    if (codebook == codec::Codebook::kMul1) {
      switch (m.bits) {
#define FAIRWAY_CASE(bits)                               \
  case bits:                                             \
    walk<bits, true>(w, in, stride, SumCodebook{}, acc); \
    break;
        FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
      }
    } else {
      const SumCodebook sum = SumCodebook::of(codebook);
      switch (m.bits) {
#define FAIRWAY_CASE(bits)                      \
  case bits:                                    \
    walk<bits, false>(w, in, stride, sum, acc); \
    break;
        FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
      }
    }
    const int out = warp % kFewColumnParts * kFewTiles * 16 + (lane >> 2);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int tile = 0; tile < kFewTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          shared.sums[warp / kFewColumnParts][8 * g + 2 * (lane & 3) + (i & 1)][out + 16 * tile + (i >> 1) * 8] =
              acc[tile][g][i];
        }
      }
    }
  }

  static __device__ __forceinline__ float4 sums_of(const Shared& shared, int row, int column) {
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int p = 0; p < kFewRowParts; ++p) {
      const float4 part = *reinterpret_cast<const float4*>(&shared.sums[p][row][column]);
      sum.x += part.x;
      sum.y += part.y;
      sum.z += part.z;
      sum.w += part.w;
    }
    const float unit = shared.unit[row];
    return make_float4(sum.x * unit, sum.y * unit, sum.z * unit, sum.w * unit);
  }
};

}  // namespace fairway::kernels::cuda
