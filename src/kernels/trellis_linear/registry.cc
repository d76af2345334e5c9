// The rows of trellis_linear.
#include "kernels/trellis_band/row_facts.h"
#include "kernels/trellis_linear/rows.h"

namespace fairway::kernels {

std::span<const TrellisLinearRow> trellis_linear_rows() {
  using backend::kCpuBaseline;
  using enum Backend;
#define FAIRWAY_KERNEL(backend, family, suffix, features, format, m_min, m_max, tile, fn, source)              \
  {{FAIRWAY_BACKEND_##backend "/" family suffix, "trellis_linear", family, source, backend, features,          \
    (format).weights, (format).activations, (format).numerics, (format).codes, (format).codebooks, BitTuple{}, \
    RowUse::kByRows, m_min, m_max, tile},                                                                      \
   fn},
  static const TrellisLinearRow kRows[] = {
#include "kernels/trellis_linear/kernels.inc"
  };
#undef FAIRWAY_KERNEL
  return kRows;
}

}  // namespace fairway::kernels
