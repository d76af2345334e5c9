// The integer paths' share of the band kernel.
#pragma once

#include "kernels/moe_swiglu/cuda/band_args.cuh"
#include "kernels/trellis_band/cuda/int_band.cuh"

namespace fairway::kernels::cuda {

template <int kGroupCount>
struct IntPath {
  using Band = IntBand<kGroupCount>;
  using Shared = typename Band::Shared;
  static constexpr int kTokens = Band::kTokens;
  static constexpr int kReleases = kComputeWarps;
  static constexpr int kMinCtas = 2;
  static constexpr bool kStreamsTokens = false;
  static constexpr bool kDirect = kGroupCount == 1;

  // Gate and up transform the tokens' inputs; down's are already transformed.
  static __device__ void prepare_input(const BandArgs& a, const Item& item, const Part& part, const DigitInput& input,
                                       Shared& shared) {
    Band::clear(shared);
    consumer_sync<kComputeThreads>();
    if (a.phase == Phase::kGateUp) {
      const auto row_of = [&](int token) {
        const long long row = item_slot<kDirect>(a, item, token) / a.slots_per_token;
        return a.call.x + row * a.call.ldx + part.begin * kBand;
      };
      Band::stage_inputs(input, item.count, part.count, row_of, part.matrix->suh + part.begin * kBand, shared);
    } else {
      const auto row_of = [&](int token) {
        const long long slot =
            kDirect && a.phase == Phase::kDownDirect ? part.slot : item_slot<kDirect>(a, item, token);
        return a.hidden + slot * a.layer.max_intermediate + part.begin * kBand;
      };
      Band::stage_transformed(input, item.count, part.count, row_of, shared);
    }
    consumer_sync<kComputeThreads>();
    Band::quantize(input, item.count, part.count, shared);
    consumer_sync<kComputeThreads>();
  }

  static __device__ void compute(const BandArgs& a, const Item& item, const Part& part, bool keep_input,
                                 RingCursor& ring, unsigned char* memory, Shared& shared, float* inner) {
    const DigitInput input{memory, a.input_stride};
    if (!keep_input) prepare_input(a, item, part, input, shared);
    Band::multiply(ring, part.matrix->bits, part.count, item.count, input, shared, inner);
  }
};

}  // namespace fairway::kernels::cuda
