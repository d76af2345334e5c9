// The paths' share of the kernel: how the inputs of an item reach the loops.
#pragma once

#include "kernels/trellis_band/cuda/half_band.cuh"
#include "kernels/trellis_band/cuda/int_band.cuh"
#include "kernels/trellis_linear/cuda/linear_kernels.cuh"

namespace fairway::kernels::cuda {

// Inputs of an item in memory: row r of the segment begins at x + r * ldx, at the first input of the CTA's share.
struct LinearInput {
  const __half* x;
  long long ldx;
  const __half* suh;
  int rows, blocks;
};

// Each CTA transforms its share of the inputs into shared memory and keeps it as 15-bit integers.
template <int kGroupCount>
struct LinearIntPath {
  using Band = IntBand<kGroupCount>;
  using Shared = typename Band::Shared;
  static constexpr int kRows = Band::kTokens;
  static constexpr int kMinCtas = 2;
  static constexpr bool kStreamsRows = false;
  static constexpr InputMemory kInput{2 * kRows, kBand, 32};

  // Comes before each prepare().
  static __device__ void clear(Shared& shared) {
    Band::clear(shared);
    consumer_sync<kComputeThreads>();
  }

  static __device__ void prepare(const LinearArgs& a, const LinearInput& in, unsigned char* memory, Shared& shared) {
    const DigitInput input{memory, a.input_stride};
    Band::stage_inputs(
        input, in.rows, in.blocks, [&](int r) { return in.x + r * in.ldx; }, in.suh, shared);
    consumer_sync<kComputeThreads>();
    Band::quantize(input, in.rows, in.blocks, shared);
    consumer_sync<kComputeThreads>();
  }

  static __device__ void multiply(const LinearArgs& a, const TrellisRef& m, int rows, int blocks, RingCursor& ring,
                                  unsigned char* memory, Shared& shared, float* inner) {
    Band::multiply(ring, m.bits, blocks, rows, DigitInput{memory, a.input_stride}, shared, inner);
  }
};

// The same in half precision.
template <int kGroupCount>
struct LinearHalfPath {
  using Band = HalfBand<kGroupCount>;
  struct Shared {};
  static constexpr int kRows = Band::kTokens;
  static constexpr int kMinCtas = 2;
  static constexpr bool kStreamsRows = false;
  static constexpr InputMemory kInput{kRows, 2 * kBand, 64};

  static __device__ void clear(Shared&) {}

  static __device__ void prepare(const LinearArgs& a, const LinearInput& in, unsigned char* memory, Shared&) {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    for (int unit = warp; unit < in.rows * in.blocks; unit += kComputeWarps) {
      const int row = unit / in.blocks, block = unit % in.blocks, k = block * kBand + 4 * lane;
      float v[4];
      transform_input(in.x + row * in.ldx + k, in.suh + k, v);
      store_fragment_order(reinterpret_cast<__half*>(memory + row * a.input_stride) + block * kBand, v);
    }
    consumer_sync<kComputeThreads>();
  }

  static __device__ void multiply(const LinearArgs& a, const TrellisRef& m, int, int blocks, RingCursor& ring,
                                  unsigned char* memory, Shared&, float* inner) {
    Band::multiply(ring, m.bits, m.codebook, blocks, ResidentTokens{memory, a.input_stride}, inner);
  }
};

// Inputs were transformed by a launch before and are streamed beside the weights.
template <int kGroupCount>
struct LinearStreamedPath {
  using Band = HalfBand<kGroupCount>;
  struct Shared {};
  static constexpr int kRows = Band::kTokens;
  static constexpr int kMinCtas = 2;
  static constexpr bool kStreamsRows = true;
  static constexpr InputMemory kInput{0, 0, 0};

  static __device__ void multiply(const LinearArgs&, const TrellisRef& m, int, int blocks, RingCursor& ring,
                                  unsigned char*, Shared&, float* inner) {
    Band::multiply(ring, m.bits, m.codebook, blocks, StreamedTokens{}, inner);
  }
};

}  // namespace fairway::kernels::cuda
