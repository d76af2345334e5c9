// The half-precision paths' share of the band kernel: tokens are streamed beside the weights.
#pragma once

#include "kernels/moe_swiglu/cuda/band_args.cuh"
#include "kernels/trellis_band/cuda/half_band.cuh"

namespace fairway::kernels::cuda {

template <int kGroupCount>
struct HalfPath {
  using Band = HalfBand<kGroupCount>;
  struct Shared {};
  static constexpr int kTokens = Band::kTokens;
  static constexpr int kReleases = kComputeWarps;
  static constexpr int kMinCtas = kGroupCount == 1 ? 3 : 2;
  static constexpr bool kStreamsTokens = true;
  static constexpr bool kDirect = false;

  static __device__ void compute(const BandArgs&, const Item&, const Part& part, bool, RingCursor& ring, unsigned char*,
                                 Shared&, float* inner) {
    Band::multiply(ring, part.matrix->bits, part.matrix->codebook, part.count, StreamedTokens{}, inner);
  }
};

}  // namespace fairway::kernels::cuda
