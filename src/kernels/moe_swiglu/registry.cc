// The rows of moe_swiglu.
#include "kernels/moe_swiglu/rows.h"
#include "kernels/trellis_band/row_facts.h"

namespace fairway::kernels {

std::span<const MoeSwigluRow> moe_swiglu_rows() {
  using backend::kCpuBaseline;
  using enum Backend;
  using enum RowUse;
#define FAIRWAY_KERNEL(backend, family, suffix, features, format, use, m_min, m_max, tile, fn, source)                 \
  {{FAIRWAY_BACKEND_##backend "/" family suffix, "moe_swiglu", family, source, backend, features, (format).weights,    \
    (format).activations, (format).numerics, (format).codes, (format).codebooks, BitTuple{}, use, m_min, m_max, tile}, \
   fn},
  static const MoeSwigluRow kRows[] = {
#include "kernels/moe_swiglu/kernels.inc"
  };
#undef FAIRWAY_KERNEL
  return kRows;
}

}  // namespace fairway::kernels
