// dense_dot for every instruction set: blocks of K that keep a tile's input rows in the first-level cache.
#pragma once

#include "kernels/dense_linear/dot_tiles.h"

namespace fairway::kernels {

// 8 rows of 1024 floats are 32 KiB, which leaves room for the weights in a 48 KiB L1; 4 rows fit a 32 KiB one.
constexpr int kDotBlockK = 1024;

// Rows of inputs are handed to the tiles in groups through pointers.
constexpr int kDotRowGroup = 32;

template <class S, DenseType T>
void dense_dot_typed(const DenseMatrix& w, int n_begin, int n_end, const float* x, std::int64_t ldx, int m, float* y,
                     std::int64_t ldy) {
  constexpr std::int64_t kBytes = T == DenseType::kF32 ? 4 : 2;
  // Few rows: the weights are read once from memory, whole rows at a time. Many rows: a K block of all outputs.
  const int n_step = m <= 4 ? 8 : n_end - n_begin;
  for (int n = n_begin; n < n_end; n += n_step) {
    const int end = n_end - n < n_step ? n_end : n + n_step;
    int k = 0;
    do {
      const int depth = w.in - k < kDotBlockK ? w.in - k : kDotBlockK;
      for (int i = 0; i < m; i += kDotRowGroup) {
        const int rows = m - i < kDotRowGroup ? m - i : kDotRowGroup;
        const float* xs[kDotRowGroup];
        float* ys[kDotRowGroup];
        for (int r = 0; r < rows; ++r) {
          xs[r] = x + (i + r) * ldx + k;
          ys[r] = y + (i + r) * ldy;
        }
        dot_rows<S, T>({xs, w.data + k * kBytes, w.in * kBytes, depth, ys, w.bias, k > 0}, rows, n, end);
      }
      k += kDotBlockK;
    } while (k < w.in);
  }
}

template <class S>
void dense_dot_generic(const DenseMatrix& w, int n_begin, int n_end, const float* x, std::int64_t ldx, int m, float* y,
                       std::int64_t ldy) {
  switch (w.type) {
    case DenseType::kF32:
      return dense_dot_typed<S, DenseType::kF32>(w, n_begin, n_end, x, ldx, m, y, ldy);
    case DenseType::kF16:
      return dense_dot_typed<S, DenseType::kF16>(w, n_begin, n_end, x, ldx, m, y, ldy);
    case DenseType::kBf16:
      return dense_dot_typed<S, DenseType::kBf16>(w, n_begin, n_end, x, ldx, m, y, ldy);
  }
}

}  // namespace fairway::kernels
