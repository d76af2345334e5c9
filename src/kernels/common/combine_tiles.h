// Register tiles of weighted sums of rows: y[r] (+)= sum over k of x[r][k] * b[k], written once for every instruction
// set. Only for files that are compiled for the instruction set of S.
#pragma once

#include <cstdint>

#include "kernels/common/matrix.h"

namespace fairway::kernels {

struct CombinePanel {
  const float* const* x;  // [rows] factors, k values each
  int k;
  const std::uint8_t* b;  // row k starts at b + k * b_stride (bytes), columns contiguous
  std::int64_t b_stride;
  float* const* y;  // [rows]
  bool accumulate;  // add to y instead of replacing it
};

// kR rows by kV vectors of columns from `column` on. If tail > 0 the (single) vector has that many columns. Each sum
// runs over k in order in one register, so results do not depend on how rows and columns are grouped.
template <class S, DenseType T, int kR, int kV>
[[gnu::always_inline]] inline void combine_tile(const CombinePanel& panel, int column, int tail) {
  using Vec = typename S::Vec;
  constexpr int kBytes = T == DenseType::kF32 ? 4 : 2;
  const float* x[kR];
  Vec acc[kR * kV];
#pragma GCC unroll 8
  for (int r = 0; r < kR; ++r) {
    x[r] = panel.x[r];
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v) {
      const float* const y = panel.y[r] + column + v * S::kLanes;
      acc[r * kV + v] = !panel.accumulate ? S::zero() : tail > 0 ? S::load_tail(y, tail) : S::load(y);
    }
  }
  const std::uint8_t* b = panel.b + column * kBytes;
  for (int k = 0; k < panel.k; ++k, b += panel.b_stride) {
    Vec bv[kV];
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v) {
      const std::uint8_t* const p = b + v * S::kLanes * kBytes;
      bv[v] = tail > 0 ? S::template load_weights_tail<T>(p, tail) : S::template load_weights<T>(p);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kR; ++r) {
      Vec xv = S::set1(x[r][k]);
      S::pin(xv);
#pragma GCC unroll 8
      for (int v = 0; v < kV; ++v) acc[r * kV + v] = S::fma(xv, bv[v], acc[r * kV + v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kR; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v) {
      float* const y = panel.y[r] + column + v * S::kLanes;
      if (tail > 0) {
        S::store_tail(y, acc[r * kV + v], tail);
      } else {
        S::store(y, acc[r * kV + v]);
      }
    }
  }
}

// kV: vectors side by side; few rows take more, for enough independent sums.
template <class S, DenseType T, int kR, int kV>
void combine_panel(const CombinePanel& panel, int columns) {
  int c = 0;
  for (; c + kV * S::kLanes <= columns; c += kV * S::kLanes) combine_tile<S, T, kR, kV>(panel, c, 0);
  for (; c + S::kLanes <= columns; c += S::kLanes) combine_tile<S, T, kR, 1>(panel, c, 0);
  if (c < columns) combine_tile<S, T, kR, 1>(panel, c, columns - c);
}

// Any number of rows: the largest tiles first.
template <class S, DenseType T>
void combine_rows(CombinePanel panel, int rows, int columns) {
  const auto advance = [&](int count) {
    panel.x += count;
    panel.y += count;
    return count;
  };
  for (; rows >= S::kRows; rows -= advance(S::kRows)) combine_panel<S, T, S::kRows, 2>(panel, columns);
  if constexpr (S::kRows > 4) {
    for (; rows >= 4; rows -= advance(4)) combine_panel<S, T, 4, 4>(panel, columns);
  }
  for (; rows >= 2; rows -= advance(2)) combine_panel<S, T, 2, 4>(panel, columns);
  for (; rows >= 1; rows -= advance(1)) combine_panel<S, T, 1, 8>(panel, columns);
}

}  // namespace fairway::kernels
