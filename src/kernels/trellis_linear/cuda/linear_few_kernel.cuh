// The kernel of linear layers of few rows and few weights: all coded weights of a CTA's share are on their way before
// the kernel in front has ended, and sixteen warps multiply them, so that a scheduler has four to choose from. Its code
// is short, because most of it runs once.
#pragma once

#include "kernels/trellis_linear/cuda/linear_few.cuh"
#include "kernels/trellis_linear/cuda/linear_kernel.cuh"

namespace fairway::kernels::cuda {

constexpr int kFewWarps = 16, kFewLinearThreads = 32 * kFewWarps;
constexpr int kFewTiles = 2;  // tiles side by side that a warp computes, of two tile rows of a block
constexpr int kMaxFewBlocks = 8;

struct FewPath {
  using Band = IntBand<1>;
  using Shared = Band::Shared;
  static constexpr int kRows = Band::kTokens;
  static constexpr int kWarps = kFewWarps;
  static constexpr int kNormBlocks = kRows * kMaxFewBlocks;

  static __device__ __forceinline__ float4 sums_of(const Shared& shared, int row, int column) {
    return Band::sums_of(shared, row, column);
  }
};
static_assert(kFewWarps == kBandTiles / kFewTiles * kIntRowParts);

// The first warp asks for all coded weights of the share, a lane for a tile row.
__device__ __forceinline__ void load_few(RingBarriers& barriers, const LinearOutput& output, int band,
                                         const LinearShare& share, unsigned char* coded, int stage_bytes) {
  const TrellisRef& m = output.matrix;
  const int lane = threadIdx.x, band_bytes = 2 * kBand * m.bits;
  const std::size_t row_bytes = static_cast<std::size_t>(2 * output.out) * m.bits;
  const unsigned char* words = m.words + static_cast<std::size_t>(share.begin) * kBandTiles * row_bytes +
                               static_cast<std::size_t>(band) * band_bytes;
  if (lane < share.count) barrier_expect(&barriers.full[lane], kBandTiles * band_bytes);
  __syncwarp();
#pragma unroll 1
  for (int row = lane; row < share.count * kBandTiles; row += 32) {
    const int block = row / kBandTiles;
    bulk_load(coded + block * stage_bytes + (row & (kBandTiles - 1)) * band_bytes, words + row * row_bytes, band_bytes,
              &barriers.full[block]);
  }
}

// What a lane's four inputs of a block are multiplied by: read before the kernel in front has ended.
struct FewScales {
  float4 weight;  // of the norm
  uint2 suh;

  __device__ __forceinline__ void load(const LinearArgs& a, const __half* scales, int k) {
    suh = *reinterpret_cast<const uint2*>(scales + k);
    weight = make_float4(0, 0, 0, 0);
    if (a.call.norm.x != nullptr && k < a.call.norm.n) {
      weight = *reinterpret_cast<const float4*>(a.call.norm.weight + k);
    }
  }
  __device__ __forceinline__ void apply_suh(float (&v)[4]) const {
    const float2 low = __half22float2(as_half2(suh.x)), high = __half22float2(as_half2(suh.y));
    v[0] *= low.x;
    v[1] *= low.y;
    v[2] *= high.x;
    v[3] *= high.y;
  }
};

// The units of a warp: block `block` of row `row`.
struct FewUnit {
  int unit, row = 0, block;

  __device__ __forceinline__ explicit FewUnit(int blocks)
      : unit(static_cast<int>(threadIdx.x >> 5)), block(static_cast<int>(threadIdx.x >> 5)) {
    settle(blocks);
  }
  __device__ __forceinline__ void settle(int blocks) {
    for (; block >= blocks; block -= blocks) ++row;
  }
  __device__ __forceinline__ void next(int blocks) {
    unit += kFewWarps;
    block += kFewWarps;
    settle(blocks);
  }
};

// The inputs of the item as digits. held: [units][32 lanes]. scales: of the warp's first unit.
__device__ __forceinline__ void stage_few(const LinearArgs& a, const LinearInput& in, FewScales scales,
                                          LinearShared<FewPath>& shared, unsigned char* memory, float4* held) {
  using Band = FewPath::Band;
  const int lane = threadIdx.x & 31, blocks = in.share.count, units = in.rows * blocks;
  const LinearNorm& norm = a.call.norm;
  const DigitInput input{memory, a.input_stride};
  held += lane;
#pragma unroll 1
  for (FewUnit u(blocks); u.unit < units;) {
    const int k = (in.share.begin + u.block) * kBand + 4 * lane;
    float v[4];
    if (norm.x != nullptr) {
      const float4 sum = load_norm_sum(norm, u.row, k);
      if (in.stores_sum) store_norm_sum(norm, u.row, k, sum);
      const float squares = warp_sum(add_squares(0.0f, sum));
      if (lane == 0) shared.squares[u.row * blocks + u.block] = squares;
      v[0] = sum.x * scales.weight.x;
      v[1] = sum.y * scales.weight.y;
      v[2] = sum.z * scales.weight.z;
      v[3] = sum.w * scales.weight.w;
    } else {
      load_half4(a.call.x + u.row * a.call.ldx + k, v);
    }
    scales.apply_suh(v);
    hadamard128(v);
    held[32 * u.unit] = make_float4(v[0], v[1], v[2], v[3]);
    Band::note_largest(shared.path, u.row, Band::largest_of(v));
    u.next(blocks);
    if (u.unit < units) scales.load(a, in.suh, (in.share.begin + u.block) * kBand + 4 * lane);
  }
  __syncthreads();
  if (threadIdx.x < static_cast<unsigned>(in.rows)) Band::set_unit(shared.path, static_cast<int>(threadIdx.x));
#pragma unroll 1
  for (FewUnit u(blocks); u.unit < units; u.next(blocks)) {
    const float inverse = Band::inverse_unit(shared.path, u.row);
    const float4 v = held[32 * u.unit];
    unsigned char* const at = input.data + 2 * u.row * input.stride + u.block * kBand;
    Band::add_digit_sum(shared.path, u.row,
                        Band::store_pair(at, input.stride, 4 * lane, v.x * inverse, v.y * inverse) +
                            Band::store_pair(at, input.stride, 4 * lane + 2, v.z * inverse, v.w * inverse));
  }
  __syncthreads();
}

// acc[tile]: as in walk_int().
template <int kBits>
__device__ __forceinline__ void walk_few(RingBarriers& barriers, const unsigned char* coded, int stage_bytes,
                                         int blocks, const unsigned char* in, int (&acc)[kFewTiles][1][4]) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const LaneStream<kBits> stream(lane);
  coded += (2 * (warp >> 2) * kBandTiles + (warp & 3) * kFewTiles) * (32 * kBits);
#pragma unroll 1
  for (int block = 0; block < blocks; ++block, coded += stage_bytes, in += kBand) {
    const uint2 digits = *reinterpret_cast<const uint2*>(in);
    barrier_wait(&barriers.full[block], 0);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      u32 b[1][4];
      repeat_digits(row == 0 ? digits.x : digits.y, b[0]);
#pragma unroll
      for (int tile = 0; tile < kFewTiles; ++tile) {
        u32 w[3], x[8];
        stream.load(coded + (row * kBandTiles + tile) * (32 * kBits), w);
        windows<kBits>(w, x);
        multiply_tile<1>(x, b, acc[tile]);
      }
    }
  }
}

__device__ __forceinline__ void multiply_few(RingBarriers& barriers, const unsigned char* coded, int stage_bytes,
                                             int bits, int blocks, int rows, const DigitInput& input,
                                             FewPath::Shared& shared) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int column = min(lane >> 2, 2 * rows - 1);  // sums of those beyond are not looked at
  const unsigned char* const in = input.data + column * input.stride + (warp >> 2) * 32 + (lane & 3) * 8;
  int acc[kFewTiles][1][4] = {};
  switch (bits) {
#define FAIRWAY_CASE(bits)                                         \
  case bits:                                                       \
    walk_few<bits>(barriers, coded, stage_bytes, blocks, in, acc); \
    break;
    FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
  }
  float* const sums = shared.sums[warp >> 2][lane & 3] + (warp & 3) * kFewTiles * 16 + (lane >> 2);
#pragma unroll
  for (int tile = 0; tile < kFewTiles; ++tile) {
    const int* c = acc[tile][0];
    sums[16 * tile] = 128.0f * static_cast<float>(c[0]) + static_cast<float>(c[1]);
    sums[16 * tile + 8] = 128.0f * static_cast<float>(c[2]) + static_cast<float>(c[3]);
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kFewLinearThreads, 2) linear_few_kernel(const __grid_constant__ LinearArgs a) {
  unsigned char* const coded = dynamic_shared<unsigned char>();
  auto& shared = *reinterpret_cast<LinearShared<FewPath>*>(coded + a.ring_stages * a.stage_bytes);
  const int rank = cluster_rank(a.split), warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const LinearShare share = linear_share(a, rank);
  const LinearItem item = get_linear_item(a, static_cast<int>(blockIdx.x) / a.split);
  const LinearOutput& output = a.call.outputs[item.output];
  if (threadIdx.x < 32) {
    if (threadIdx.x == 0) barrier_init(&shared.sums_there, 1);
    ring_init_by_lanes(&shared.barriers, share.count, 1);
    __syncwarp();
    load_few(shared.barriers, output, item.band, share, coded, a.stage_bytes);
  } else if (threadIdx.x < 64) {
    if (lane < FewPath::kRows) shared.path.largest[lane] = shared.path.digit_sum[lane] = 0;
  }
  LinearScale scale;
  scale.load(output, item.band);
  FewScales scales;
  scales.load(a, output.matrix.suh, (share.begin + FewUnit(share.count).block) * kBand + 4 * lane);
  scale.store(shared);
  __syncthreads();
  if (a.split > 1) cluster_arrive();  // waited for before the first sums are sent
  wait_for_previous_kernel();
  let_next_kernel_start();
  float old[4] = {};
  const int own = rank + a.split * warp;
  if (own < item.count) LinearPlaces{output, item.band * kBand + 4 * lane}.load_old(own, old);
  const DigitInput input{reinterpret_cast<unsigned char*>(&shared + 1), a.input_stride};
  float4* const gathered = reinterpret_cast<float4*>(input.data + 2 * a.call.rows * a.input_stride);
  const bool stores_sum = item.output == 0 && item.band == 0;
  stage_few(a, {0, item.count, share, output.matrix.suh, stores_sum}, scales, shared, input.data,
            gathered + a.few_gathered);
  multiply_few(shared.barriers, coded, a.stage_bytes, output.matrix.bits, share.count, item.count, input, shared.path);
  if (a.split > 1) {
    cluster_wait();
    send_sums(a, item, rank, share.count, shared, gathered);
  }
  finish_linear_item<FewPath>(a, item, rank, share.count, shared, gathered, old);
}

}  // namespace fairway::kernels::cuda
