// The rows of trellis_linear.
#include "kernels/trellis_band/row_facts.h"
#include "kernels/trellis_linear/rows.h"

namespace fairway::kernels {

std::span<const TrellisLinearRow> trellis_linear_rows() {
  using backend::kCpuBaseline;
  using enum Backend;
  using enum Activations;
  using enum Numerics;
#define FAIRWAY_KERNEL(backend, family, source, features, activations, numerics, codebooks, m_min, m_max, tile_n, fn) \
  {{FAIRWAY_BACKEND_##backend "/" family, "trellis_linear", family, source, backend, features, WeightKind::kTrellis,  \
    activations, numerics, codebooks, BitTuple{}, m_min, m_max, tile_n},                                              \
   fn},
  static const TrellisLinearRow kRows[] = {
#include "kernels/trellis_linear/kernels.inc"
  };
#undef FAIRWAY_KERNEL
  return kRows;
}

}  // namespace fairway::kernels
