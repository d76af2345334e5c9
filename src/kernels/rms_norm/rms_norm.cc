// rms_norm: one portable body; a row is a few hundred to a few thousand values, far below the cost of its matrix
// product.
#include "kernels/rms_norm/rms_norm.h"

#include <cmath>

namespace fairway::kernels {

void rms_norm(const float* x, std::int64_t ldx, const float* weight, float eps, int m, int n, float* y,
              std::int64_t ldy) {
  for (int row = 0; row < m; ++row) {
    const float* in = x + row * ldx;
    float* out = y + row * ldy;
    // Four chains in a fixed order: the additions overlap, and the order is the same in every build.
    double sums[4] = {};
    int i = 0;
    for (; i + 4 <= n; i += 4) {
      for (int lane = 0; lane < 4; ++lane) sums[lane] += static_cast<double>(in[i + lane]) * in[i + lane];
    }
    for (; i < n; ++i) sums[0] += static_cast<double>(in[i]) * in[i];
    const double mean = ((sums[0] + sums[1]) + (sums[2] + sums[3])) / n;
    const float scale = static_cast<float>(1.0 / std::sqrt(mean + eps));
    for (int j = 0; j < n; ++j) out[j] = in[j] * scale * weight[j];
  }
}

}  // namespace fairway::kernels
