// dense_dot, scalar reference: one product at a time, sums in double.
#include <cstring>

#include "codec/half.h"
#include "kernels/dense_linear/dense_dot.h"

namespace fairway::kernels {

float dense_element(const DenseMatrix& w, std::int64_t i) {
  const std::uint8_t* const p = w.data + i * dense_type_bytes(w.type);
  if (w.type == DenseType::kF32) {
    float value;
    std::memcpy(&value, p, sizeof value);
    return value;
  }
  std::uint16_t half;
  std::memcpy(&half, p, sizeof half);
  return w.type == DenseType::kF16 ? codec::float_from_half(half) : codec::float_from_bfloat(half);
}

void dense_dot_ref(const DenseMatrix& w, int n_begin, int n_end, const float* x, std::int64_t ldx, int m, float* y,
                   std::int64_t ldy) {
  for (int n = n_begin; n < n_end; ++n) {
    for (int i = 0; i < m; ++i) {
      double sum = w.bias != nullptr ? w.bias[n] : 0.0;
      for (int k = 0; k < w.in; ++k) {
        sum += static_cast<double>(x[i * ldx + k]) * dense_element(w, static_cast<std::int64_t>(n) * w.in + k);
      }
      y[i * ldy + n] = static_cast<float>(sum);
    }
  }
}

}  // namespace fairway::kernels
