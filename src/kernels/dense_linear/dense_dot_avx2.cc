// dense_dot for AVX2.
#include "kernels/common/simd_avx2.h"
#include "kernels/dense_linear/dense_dot.h"
#include "kernels/dense_linear/dense_dot_generic.h"

namespace fairway::kernels {

void dense_dot_avx2(const DenseMatrix& w, int n_begin, int n_end, const float* x, std::int64_t ldx, int m, float* y,
                    std::int64_t ldy) {
  dense_dot_generic<SimdAvx2>(w, n_begin, n_end, x, ldx, m, y, ldy);
}

}  // namespace fairway::kernels
