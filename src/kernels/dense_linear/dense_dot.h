// dense_dot: the rows of a stored dense matrix against rows of fp32 inputs, for one range of outputs. The building
// block of dense_linear, of dense experts and of the keys and values of multi-head latent attention.
#pragma once

#include <cstdint>

#include "kernels/common/matrix.h"

namespace fairway::kernels {

// y[i * ldy + n] = dot(x row i, w row n) + bias[n] for 0 <= i < m and n_begin <= n < n_end. x: [m, w.in] with row
// stride ldx. Strides in elements; x and y must not overlap. Nothing outside x, w and the named y elements is touched.
// Each function gives the same bits for a given (row, n) whatever m and the range are. Runs on the calling thread.
using DenseDotFn = void (*)(const DenseMatrix& w, int n_begin, int n_end, const float* x, std::int64_t ldx, int m,
                            float* y, std::int64_t ldy);

void dense_dot_ref(const DenseMatrix& w, int n_begin, int n_end, const float* x, std::int64_t ldx, int m, float* y,
                   std::int64_t ldy);  // sums in double
void dense_dot_avx2(const DenseMatrix& w, int n_begin, int n_end, const float* x, std::int64_t ldx, int m, float* y,
                    std::int64_t ldy);
void dense_dot_avx512(const DenseMatrix& w, int n_begin, int n_end, const float* x, std::int64_t ldx, int m, float* y,
                      std::int64_t ldy);

// `count` rows of w from `first` on, without bias, as a matrix of their own.
inline DenseMatrix dense_rows(const DenseMatrix& w, std::int64_t first, int count) {
  return {w.data + first * w.in * dense_type_bytes(w.type), w.type, w.in, count, nullptr};
}

// Element i of a dense matrix's data, as the reference bodies read it.
float dense_element(const DenseMatrix& w, std::int64_t i);

}  // namespace fairway::kernels
