// The paths' share of the kernel: how the inputs of an item reach the loops.
#pragma once

#include "kernels/trellis_band/cuda/half_band.cuh"
#include "kernels/trellis_band/cuda/int_band.cuh"
#include "kernels/trellis_linear/cuda/linear_kernels.cuh"
#include "kernels/trellis_linear/cuda/linear_norm.cuh"

namespace fairway::kernels::cuda {

// Inputs of an item: of the rows from first_row on, the CTA's share of blocks, scaled by suh.
struct LinearInput {
  int first_row, rows;
  LinearShare share;
  const __half* suh;
  bool stores_sum;  // LinearNorm::sum of these is this CTA's to store
};

// Four of the inputs, scaled and not yet transformed: k, k + 1, ..., counted from the share's first, of a row of the
// item.
__device__ __forceinline__ void read_input(const LinearArgs& a, const LinearInput& in, int row, int k, float (&v)[4]) {
  k += in.share.begin * kBand;
  load_half4(a.call.x + (in.first_row + row) * a.call.ldx + k, v);
  scale_by(v, in.suh + k);
}

// The same with a norm in front, but for the factor of the row. Returns the squares of what the norm is of.
__device__ __forceinline__ float read_normed(const LinearArgs& a, const LinearInput& in, int row, int k,
                                             float (&v)[4]) {
  k += in.share.begin * kBand;
  const LinearNorm& norm = a.call.norm;
  const float4 sum = load_norm_sum(norm, in.first_row + row, k);
  scale_normed(norm, sum, 1.0f, k, v);
  scale_by(v, in.suh + k);
  if (in.stores_sum) store_norm_sum(norm, in.first_row + row, k, sum);
  return add_squares(0.0f, sum);
}

// Each CTA transforms its share of the inputs into shared memory and keeps it as 15-bit integers.
template <int kGroupCount>
struct LinearIntPath {
  using Band = IntBand<kGroupCount>;
  using Shared = typename Band::Shared;
  static constexpr int kRows = Band::kTokens;
  static constexpr int kWarps = kComputeWarps;
  static constexpr int kMinCtas = 2;
  static constexpr bool kStreamsRows = false;
  static constexpr InputMemory kInput{2 * kRows, kBand, 32};

  // Comes before each prepare(), with a barrier between.
  static __device__ void clear(Shared& shared) { Band::clear(shared); }

  // squares: of every block of a row that has a norm in front, [rows][blocks of the share].
  static constexpr int kNormBlocks = Band::kHeldBlocks;  // at most
  static __device__ void prepare(const LinearArgs& a, const LinearInput& in, unsigned char* memory, float* squares,
                                 Shared& shared) {
    const DigitInput input{memory, a.input_stride};
    const int rows = in.rows, blocks = in.share.count;
    const auto transform = [&](int row, int block, float(&v)[4]) {
      const int lane = threadIdx.x & 31, k = block * kBand + 4 * lane;
      if (a.call.norm.x != nullptr) {
        const float sum = warp_sum(read_normed(a, in, row, k, v));
        if (lane == 0) squares[row * blocks + block] = sum;
      } else {
        read_input(a, in, row, k, v);
      }
      hadamard128(v);
    };
    if (rows * blocks <= Band::kHeldBlocks) {
      Band::stage_held(input, rows, blocks, transform, shared);
    } else {
      Band::stage_with(
          input, rows, blocks,
          [&](int row, int k, float(&v)[4]) {
            read_input(a, in, row, k, v);
            hadamard128(v);
          },
          shared);
      consumer_sync<kComputeThreads>();
      Band::quantize(input, rows, blocks, shared);
      consumer_sync<kComputeThreads>();
    }
  }

  static __device__ void multiply(const LinearArgs& a, const TrellisRef& m, int blocks, RingCursor& ring,
                                  unsigned char* memory, Shared& shared) {
    Band::multiply_parts(ring, m.bits, blocks, DigitInput{memory, a.input_stride}, shared);
  }

  // Columns column..column+3 of a row of the item after multiply().
  static __device__ float4 sums_of(const Shared& shared, int row, int column) {
    return Band::sums_of(shared, row, column);
  }
};

// What a half-precision path has in shared memory beside the ring and its inputs.
template <int kMostRows>
struct HalfShared {
  alignas(16) float inner[kMostRows][kInnerStride];
};

// The same in half precision.
template <int kGroupCount>
struct LinearHalfPath {
  using Band = HalfBand<kGroupCount>;
  static constexpr int kRows = Band::kTokens;
  using Shared = HalfShared<kRows>;
  static constexpr int kWarps = kComputeWarps;
  static constexpr int kMinCtas = 2;
  static constexpr bool kStreamsRows = false;
  static constexpr InputMemory kInput{kRows, 2 * kBand, 64};

  static constexpr int kNormBlocks = 0;
  static __device__ void clear(Shared&) {}

  static __device__ void prepare(const LinearArgs& a, const LinearInput& in, unsigned char* memory, float*, Shared&) {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int rows = in.rows, blocks = in.share.count;
    for (int unit = warp; unit < rows * blocks; unit += kComputeWarps) {
      const int row = unit / blocks, block = unit % blocks;
      float v[4];
      read_input(a, in, row, block * kBand + 4 * lane, v);
      hadamard128(v);
      store_fragment_order(reinterpret_cast<__half*>(memory + row * a.input_stride) + block * kBand, v);
    }
    consumer_sync<kComputeThreads>();
  }

  static __device__ void multiply(const LinearArgs& a, const TrellisRef& m, int blocks, RingCursor& ring,
                                  unsigned char* memory, Shared& shared) {
    Band::multiply(ring, m.bits, m.codebook, blocks, ResidentTokens{memory, a.input_stride}, shared.inner[0]);
  }

  static __device__ float4 sums_of(const Shared& shared, int row, int column) {
    return *reinterpret_cast<const float4*>(&shared.inner[row][column]);
  }
};

// Inputs were transformed by a launch before and are streamed beside the weights.
template <int kGroupCount>
struct LinearStreamedPath {
  using Band = HalfBand<kGroupCount>;
  static constexpr int kRows = Band::kTokens;
  using Shared = HalfShared<kRows>;
  static constexpr int kWarps = kComputeWarps;
  static constexpr int kMinCtas = 2;
  static constexpr bool kStreamsRows = true;
  static constexpr int kNormBlocks = 0;
  static constexpr InputMemory kInput{0, 0, 0};

  static __device__ void multiply(const LinearArgs&, const TrellisRef& m, int blocks, RingCursor& ring, unsigned char*,
                                  Shared& shared) {
    Band::multiply(ring, m.bits, m.codebook, blocks, StreamedTokens{}, shared.inner[0]);
  }

  static __device__ float4 sums_of(const Shared& shared, int row, int column) {
    return *reinterpret_cast<const float4*>(&shared.inner[row][column]);
  }
};

}  // namespace fairway::kernels::cuda
