// The rows of moe_swiglu.
#include "kernels/moe_swiglu/rows.h"
#include "kernels/trellis_band/row_facts.h"

namespace fairway::kernels {

std::span<const MoeSwigluRow> moe_swiglu_rows() {
  using backend::kCpuBaseline;
  using enum Backend;
  using enum WeightKind;
  using enum Activations;
  using enum Numerics;
#define FAIRWAY_KERNEL(backend, family, source, features, weights, activations, numerics, codebooks, m_min, m_max, \
                       tile_n, fn)                                                                                 \
  {{FAIRWAY_BACKEND_##backend "/" family, "moe_swiglu", family, source, backend, features, weights, activations,   \
    numerics, codebooks, BitTuple{}, m_min, m_max, tile_n},                                                        \
   fn},
  static const MoeSwigluRow kRows[] = {
#include "kernels/moe_swiglu/kernels.inc"
  };
#undef FAIRWAY_KERNEL
  return kRows;
}

}  // namespace fairway::kernels
