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

// Calls stage(transform): transform(row of the item, k, v) makes the transformed inputs k..k+3 of the share.
template <class Stage>
__device__ __forceinline__ void with_inputs(const LinearArgs& a, const LinearInput& in, NormParts& parts,
                                            const Stage& stage) {
  const int begin = in.share.begin * kBand;
  const __half* const suh = in.suh + begin;
  if (a.call.norm.x == nullptr) {
    const __half* const x = a.call.x + in.first_row * a.call.ldx + begin;
    stage([&](int row, int k, float(&v)[4]) { transform_input(x + row * a.call.ldx + k, suh + k, v); });
  } else {
    const LinearNorm& norm = a.call.norm;
    parts.add_up(norm, in.first_row, in.rows);
    consumer_sync<kComputeThreads>();
    stage([&](int row, int k, float(&v)[4]) {
      const float4 sum = load_norm_sum(norm, in.first_row + row, begin + k);
      if (in.stores_sum) store_norm_sum(norm, in.first_row + row, begin + k, sum);
      transform_normed(norm, sum, parts.factor(norm, in.rows, row), begin + k, suh + k, v);
    });
  }
}

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

  static __device__ void prepare(const LinearArgs& a, const LinearInput& in, unsigned char* memory, NormParts& parts,
                                 Shared& shared) {
    const DigitInput input{memory, a.input_stride};
    with_inputs(a, in, parts,
                [&](const auto& transform) { Band::stage_with(input, in.rows, in.share.count, transform, shared); });
    consumer_sync<kComputeThreads>();
    Band::quantize(input, in.rows, in.share.count, shared);
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

  static __device__ void prepare(const LinearArgs& a, const LinearInput& in, unsigned char* memory, NormParts& parts,
                                 Shared&) {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    with_inputs(a, in, parts, [&](const auto& transform) {
      for (int unit = warp; unit < in.rows * in.share.count; unit += kComputeWarps) {
        const int row = unit / in.share.count, block = unit % in.share.count;
        float v[4];
        transform(row, block * kBand + 4 * lane, v);
        store_fragment_order(reinterpret_cast<__half*>(memory + row * a.input_stride) + block * kBand, v);
      }
    });
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
