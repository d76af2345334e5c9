// Rounding the rows of a matrix to 8-bit integers.
#include "kernels/attention_mla/cuda/quantize_rows.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace fairway::kernels {

void quantize_rows_int8(const float* matrix, int rows, int columns, signed char* weights, float* scales) {
  for (int r = 0; r < rows; ++r) {
    const float* const from = matrix + static_cast<std::int64_t>(r) * columns;
    signed char* const to = weights + static_cast<std::int64_t>(r) * columns;
    float most = 0;
    for (int c = 0; c < columns; ++c) most = std::max(most, std::abs(from[c]));
    scales[r] = most / 127.0f;
    for (int c = 0; c < columns; ++c) {
      // Divided by the largest first: a scale may be too small for its inverse to be a float.
      to[c] = most == 0.0f ? 0 : static_cast<signed char>(std::lround(from[c] / most * 127.0f));
    }
  }
}

}  // namespace fairway::kernels
