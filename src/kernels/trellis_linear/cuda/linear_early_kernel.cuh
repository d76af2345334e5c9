// The kernel of linear layers of few rows and few weights: a CTA decodes all of its share before the kernel in front
// has ended, so that afterwards only its inputs, the tensor instructions and the sums remain.
//
// Weights become halves in the layout of the half tensor instruction: a block for each CTA's warps in registers, the
// others in shared memory, 32 KB each. Every lane reads what it wrote itself. Inputs are scaled by a power of two of
// their row; up to four rows are two halves each, which together keep 22 bits.
#pragma once

#include "kernels/trellis_linear/cuda/linear_early.cuh"
#include "kernels/trellis_linear/cuda/linear_kernel.cuh"

namespace fairway::kernels::cuda {

constexpr int kEarlyWarps = 16, kEarlyThreads = 32 * kEarlyWarps;
constexpr int kEarlyRowParts = 4;            // warps that share tiles side by side, each two tile rows of a block
constexpr int kEarlyTiles = 2 * kHalfTiles;  // of a block and a warp
constexpr int kDecodedTileBytes = 2 * 16 * 16;
constexpr int kDecodedBlockBytes = 2 * kBand * kBand;
constexpr int kMaxEarlyBlocks = 7;  // of a CTA

template <int kMostRows>
struct EarlyPath {
  static constexpr int kRows = kMostRows;
  static constexpr int kColumnsOfRow = kRows <= 4 ? 2 : 1;  // of the token operand
  static constexpr int kWarps = kEarlyWarps;
  static constexpr int kNormBlocks = kRows * kMaxEarlyBlocks;

  // Lies where the coded weights were.
  struct Shared {
    float sums[kEarlyRowParts][kRows][kInnerStride];
    float unit[kRows];  // what the inputs are multiples of
  };

  static __device__ __forceinline__ float4 sums_of(const Shared& shared, int row, int column) {
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int p = 0; p < kEarlyRowParts; ++p) {
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

// Ends in the path's memory, which reaches beyond it: see EarlyMemory.
template <class Path>
struct alignas(16) EarlyShared {
  int largest[Path::kRows];  // of |input|, as the bits of a float
  LinearShared<Path> linear;
};

// The CTA's weights in registers and shared memory.
using EarlyHeld = uint4[2][kHalfTiles];

// The lane's place in a warp's tiles of the first decoded block.
__device__ __forceinline__ unsigned char* early_place(unsigned char* decoded) {
  return decoded + (threadIdx.x >> 5) * (kEarlyTiles * kDecodedTileBytes) + (threadIdx.x & 31) * 16;
}

// The last block first, by way of the first place: it goes into registers.
template <int kBits, bool kMul1>
__device__ __forceinline__ void decode_early(RingBarriers& barriers, const unsigned char* coded, int stage_bytes,
                                             int blocks, SumCodebook codebook, unsigned char* place, EarlyHeld& held) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const LaneStream<kBits> stream(lane);
  coded += (2 * (warp >> 2) * kBandTiles + (warp & 3) * kHalfTiles) * (32 * kBits);
  int block = blocks - 1;
#pragma unroll 1
  for (int i = 0; i < blocks; ++i) {
    barrier_wait(&barriers.full[block], 0);
    const unsigned char* tiles = coded + block * stage_bytes;
#pragma unroll 1
    for (int row = 0; row < 2; ++row, tiles += kBandTiles * (32 * kBits)) {
#pragma unroll
      for (int tile = 0; tile < kHalfTiles; ++tile) {
        u32 w[4];
        decode_half<kBits, kMul1>(stream, tiles + tile * (32 * kBits), codebook, w);
        *reinterpret_cast<uint4*>(place + (row * kHalfTiles + tile) * kDecodedTileBytes) =
            make_uint4(w[0], w[1], w[2], w[3]);
      }
    }
    if (i == 0) {
#pragma unroll
      for (int tile = 0; tile < kEarlyTiles; ++tile) {
        held[tile / kHalfTiles][tile % kHalfTiles] = *reinterpret_cast<const uint4*>(place + tile * kDecodedTileBytes);
      }
    } else {
      place += kDecodedBlockBytes;
    }
    block = i;
  }
}

__device__ __forceinline__ void decode_early(RingBarriers& barriers, const unsigned char* coded, int stage_bytes,
                                             const TrellisRef& m, int blocks, unsigned char* place, EarlyHeld& held) {
  const auto codebook = static_cast<codec::Codebook>(m.codebook);
  if (codebook == codec::Codebook::kMul1) {
    switch (m.bits) {
#define FAIRWAY_CASE(bits)                                                                      \
  case bits:                                                                                    \
    decode_early<bits, true>(barriers, coded, stage_bytes, blocks, SumCodebook{}, place, held); \
    break;
      FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
    }
  } else {
    const bool adds_constant = codebook == codec::Codebook::k3inst;
    const SumCodebook sum{adds_constant ? codec::k3instMultiplier : codec::kMcgMultiplier,
                          adds_constant ? codec::k3instAddend : 0};
    switch (m.bits) {
#define FAIRWAY_CASE(bits)                                                             \
  case bits:                                                                           \
    decode_early<bits, false>(barriers, coded, stage_bytes, blocks, sum, place, held); \
    break;
      FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
    }
  }
}

// The first warp asks for all coded weights of the share, a lane for a tile row.
__device__ __forceinline__ void load_early(RingBarriers& barriers, const LinearOutput& output, int band,
                                           const LinearShare& share, unsigned char* coded, int stage_bytes) {
  const TrellisRef& m = output.matrix;
  const int lane = threadIdx.x, band_bytes = 2 * kBand * m.bits;
  const std::size_t row_bytes = static_cast<std::size_t>(2 * output.out) * m.bits;
  const unsigned char* const words = m.words + static_cast<std::size_t>(share.begin) * kBandTiles * row_bytes +
                                     static_cast<std::size_t>(band) * band_bytes;
  if (lane < share.count) barrier_expect(&barriers.full[lane], kBandTiles * band_bytes);
  __syncwarp();
  // What is decoded first comes first.
  for (int i = lane; i < share.count * kBandTiles; i += 32) {
    const int block = i < kBandTiles ? share.count - 1 : i / kBandTiles - 1;
    const int row = block * kBandTiles + (i & (kBandTiles - 1));
    bulk_load(coded + block * stage_bytes + (i & (kBandTiles - 1)) * band_bytes, words + row * row_bytes, band_bytes,
              &barriers.full[block]);
  }
}

// A power of two that brings the largest input of a row near the upper end of halves.
__device__ __forceinline__ int early_exponent(int largest) {
  const int exponent = (largest >> 23) - 127;
  return min(14 - exponent, 126);
}
__device__ __forceinline__ float power_of_two(int exponent) {
  return __int_as_float((exponent + 127) << 23);
}

// The inputs of the item in fragment order, a column of halves for each half of a row. held: [units][32 lanes].
template <class Path>
__device__ __forceinline__ void stage_early(const LinearArgs& a, const LinearInput& in, EarlyShared<Path>& shared,
                                            unsigned char* input, float4* held) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, blocks = in.share.count, units = in.rows * blocks;
  held += lane;
#pragma unroll 1
  for (int unit = warp, row = 0, block = warp; unit < units; unit += kEarlyWarps, block += kEarlyWarps) {
    for (; block >= blocks; block -= blocks) ++row;
    const int k = block * kBand + 4 * lane;
    float v[4];
    if (a.call.norm.x != nullptr) {
      const float sum = warp_sum(read_normed(a, in, row, k, v));
      if (lane == 0) shared.linear.squares[row * blocks + block] = sum;
    } else {
      read_input(a, in, row, k, v);
    }
    hadamard128(v);
    held[32 * unit] = make_float4(v[0], v[1], v[2], v[3]);
    const float most = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
    const int bits = __reduce_max_sync(0xFFFFFFFFu, __float_as_int(most));
    if (lane == 0) atomicMax(&shared.largest[row], bits);
  }
  __syncthreads();
#pragma unroll 1
  for (int unit = warp, row = 0, block = warp; unit < units; unit += kEarlyWarps, block += kEarlyWarps) {
    for (; block >= blocks; block -= blocks) ++row;
    const int exponent = early_exponent(shared.largest[row]);
    if (block == 0 && lane == 0) shared.linear.path.unit[row] = power_of_two(-exponent);
    const float scale = power_of_two(exponent);
    const float4 x = held[32 * unit];
    const float v[4] = {x.x * scale, x.y * scale, x.z * scale, x.w * scale};
    unsigned char* const column = input + Path::kColumnsOfRow * row * a.input_stride + block * (2 * kBand);
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const __half2 high = __floats2half2_rn(v[i], v[i + 1]);
      unsigned char* const at = column + 2 * fragment_order(4 * lane + i);
      *reinterpret_cast<__half2*>(at) = high;
      if constexpr (Path::kColumnsOfRow == 2) {
        const float2 h = __half22float2(high);
        *reinterpret_cast<__half2*>(at + a.input_stride) = __floats2half2_rn(v[i] - h.x, v[i + 1] - h.y);
      }
    }
  }
  __syncthreads();
}

// Two tile rows of two tiles times all columns.
__device__ __forceinline__ void multiply_early(const EarlyHeld& w, uint4 b, float (&acc)[kHalfTiles][4]) {
#pragma unroll
  for (int tile = 0; tile < kHalfTiles; ++tile) {
    mma_half(acc[tile], w[0][tile].x, w[0][tile].y, w[0][tile].z, w[0][tile].w, b.x, b.y);
    mma_half(acc[tile], w[1][tile].x, w[1][tile].y, w[1][tile].z, w[1][tile].w, b.z, b.w);
  }
}

template <class Path>
__device__ __forceinline__ void multiply_share(const EarlyHeld& held, const unsigned char* place,
                                               const unsigned char* input, int input_stride, int rows, int blocks,
                                               typename Path::Shared& shared) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row_part = warp >> 2;
  const int column = min(lane >> 2, Path::kColumnsOfRow * rows - 1);  // those beyond are not looked at
  const unsigned char* const in = input + column * input_stride + row_part * 64 + (lane & 3) * 16;
  float acc[kHalfTiles][4] = {};
  multiply_early(held, *reinterpret_cast<const uint4*>(in + (blocks - 1) * (2 * kBand)), acc);
#pragma unroll 1
  for (int block = 0; block < blocks - 1; ++block, place += kDecodedBlockBytes) {
    EarlyHeld w;
#pragma unroll
    for (int tile = 0; tile < kEarlyTiles; ++tile) {
      w[tile / kHalfTiles][tile % kHalfTiles] = *reinterpret_cast<const uint4*>(place + tile * kDecodedTileBytes);
    }
    multiply_early(w, *reinterpret_cast<const uint4*>(in + block * (2 * kBand)), acc);
  }
  const int out = (warp & 3) * kHalfTiles * 16 + (lane >> 2);
#pragma unroll
  for (int tile = 0; tile < kHalfTiles; ++tile) {
    if constexpr (Path::kColumnsOfRow == 2) {
      float* const sums = shared.sums[row_part][lane & 3] + out + 16 * tile;
      sums[0] = acc[tile][0] + acc[tile][1];
      sums[8] = acc[tile][2] + acc[tile][3];
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        shared.sums[row_part][2 * (lane & 3) + (i & 1)][out + 16 * tile + (i >> 1) * 8] = acc[tile][i];
      }
    }
  }
  __syncthreads();
}

template <class Path>
__global__ void __launch_bounds__(kEarlyThreads, 2) linear_early_kernel(const __grid_constant__ LinearArgs a) {
  auto& shared = *dynamic_shared<EarlyShared<Path>>();
  LinearShared<Path>& linear = shared.linear;
  unsigned char* const coded = reinterpret_cast<unsigned char*>(&linear.path);
  unsigned char* const decoded = coded + a.early_bytes;
  const int rank = cluster_rank(a.split), warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const LinearShare share = linear_share(a, rank);
  const LinearItem item = get_linear_item(a, static_cast<int>(blockIdx.x) / a.split);
  const LinearOutput& output = a.call.outputs[item.output];
  if (threadIdx.x < 32) {
    if (threadIdx.x == 0) barrier_init(&linear.sums_there, 1);
    if (threadIdx.x < Path::kRows) shared.largest[threadIdx.x] = 0;
    ring_init_by_lanes(&linear.barriers, share.count, 1);
    __syncwarp();
    load_early(linear.barriers, output, item.band, share, coded, a.stage_bytes);
  }
  LinearScale scale;
  scale.load(output, item.band);
  prefetch_inputs(a.call.norm, output, share);
  __syncthreads();
  EarlyHeld held;
  unsigned char* const place = early_place(decoded);
  decode_early(linear.barriers, coded, a.stage_bytes, output.matrix, share.count, place, held);
  scale.store(linear);
  __syncthreads();                    // from here on other things lie where the coded weights were
  if (a.split > 1) cluster_arrive();  // waited for before the first sums are sent
  wait_for_previous_kernel();
  let_next_kernel_start();
  float old[4] = {};
  const int own = rank + a.split * warp;
  if (own < item.count) LinearPlaces{output, item.band * kBand + 4 * lane}.load_old(own, old);
  unsigned char* const input = reinterpret_cast<unsigned char*>(&linear.path + 1);
  float4* const gathered = reinterpret_cast<float4*>(input + Path::kColumnsOfRow * a.call.rows * a.input_stride);
  const bool stores_sum = item.output == 0 && item.band == 0;
  stage_early<Path>(a, {0, item.count, share, output.matrix.suh, stores_sum}, shared, input,
                    gathered + a.early_gathered);
  multiply_share<Path>(held, place, input, a.input_stride, item.count, share.count, linear.path);
  if (a.split > 1) {
    cluster_wait();
    send_sums(a, item, rank, share.count, linear, gathered);
  }
  finish_linear_item<Path>(a, item, rank, share.count, linear, gathered, old);
}

}  // namespace fairway::kernels::cuda
