// Register tiles of dot products between rows of inputs and rows of weights (both contiguous along K), written once
// for every instruction set. Only for files that are compiled for the instruction set of S.
#pragma once

#include <cstdint>

#include "kernels/common/matrix.h"

namespace fairway::kernels {

// What a panel of dot products reads and writes: y[r][n] = x[r] . w[n] + (accumulate ? y[r][n] : bias ? bias[n] : 0).
struct DotPanel {
  const float* const* x;  // input rows, k values each
  const std::uint8_t* w;  // row n starts at w + n * w_stride (bytes)
  std::int64_t w_stride;
  int k;
  float* const* y;  // output rows
  const float* bias;
  bool accumulate;
};

// kR input rows by kC weight rows from n on. Every dot product has one vector accumulator and the same order of
// additions in every tile shape, so results do not depend on how rows and outputs are grouped.
template <class S, DenseType T, int kR, int kC>
[[gnu::always_inline]] inline void dot_tile(const DotPanel& panel, int n) {
  using Vec = typename S::Vec;
  constexpr int kBytes = T == DenseType::kF32 ? 4 : 2;
  const std::uint8_t* const w = panel.w + n * panel.w_stride;
  const std::int64_t stride = panel.w_stride;
  const float* x[kR];
  Vec acc[kR * kC];
#pragma GCC unroll 8
  for (int r = 0; r < kR; ++r) x[r] = panel.x[r];
#pragma GCC unroll 32
  for (int i = 0; i < kR * kC; ++i) acc[i] = S::zero();

  int k = 0;
  for (; k + S::kLanes <= panel.k; k += S::kLanes) {
    Vec wv[kC];
#pragma GCC unroll 8
    for (int c = 0; c < kC; ++c) wv[c] = S::template load_weights<T>(w + c * stride + k * kBytes);
#pragma GCC unroll 8
    for (int r = 0; r < kR; ++r) {
      Vec xv = S::load(x[r] + k);
      S::pin(xv);
#pragma GCC unroll 8
      for (int c = 0; c < kC; ++c) acc[r * kC + c] = S::fma(xv, wv[c], acc[r * kC + c]);
    }
  }
  if (k < panel.k) {
    const int rest = panel.k - k;
    Vec wv[kC];
#pragma GCC unroll 8
    for (int c = 0; c < kC; ++c) wv[c] = S::template load_weights_tail<T>(w + c * stride + k * kBytes, rest);
#pragma GCC unroll 8
    for (int r = 0; r < kR; ++r) {
      const Vec xv = S::load_tail(x[r] + k, rest);
#pragma GCC unroll 8
      for (int c = 0; c < kC; ++c) acc[r * kC + c] = S::fma(xv, wv[c], acc[r * kC + c]);
    }
  }

  constexpr int kSums = (kR * kC + 3) / 4 * 4;
  float sums[kSums];
#pragma GCC unroll 8
  for (int i = 0; i < kSums; i += 4) {
    S::sum4(acc[i], i + 1 < kR * kC ? acc[i + 1] : S::zero(), i + 2 < kR * kC ? acc[i + 2] : S::zero(),
            i + 3 < kR * kC ? acc[i + 3] : S::zero(), sums + i);
  }
  for (int r = 0; r < kR; ++r) {
    float* const y = panel.y[r] + n;
    for (int c = 0; c < kC; ++c) {
      const float base = panel.accumulate ? y[c] : panel.bias != nullptr ? panel.bias[n + c] : 0.0f;
      y[c] = base + sums[r * kC + c];
    }
  }
}

template <class S, DenseType T, int kR, int kC>
void dot_panel(const DotPanel& panel, int n_begin, int n_end) {
  int n = n_begin;
  for (; n + kC <= n_end; n += kC) dot_tile<S, T, kR, kC>(panel, n);
  if constexpr (kC > 1) {
    for (; n < n_end; ++n) dot_tile<S, T, kR, 1>(panel, n);
  }
}

// Any number of input rows: the largest tiles first.
template <class S, DenseType T>
void dot_rows(DotPanel panel, int rows, int n_begin, int n_end) {
  const auto advance = [&](int count) {
    panel.x += count;
    panel.y += count;
    return count;
  };
  for (; rows >= S::kRows; rows -= advance(S::kRows)) dot_panel<S, T, S::kRows, S::kDotCols>(panel, n_begin, n_end);
  if constexpr (S::kRows > 4) {
    for (; rows >= 4; rows -= advance(4)) dot_panel<S, T, 4, 4>(panel, n_begin, n_end);
  }
  for (; rows >= 2; rows -= advance(2)) dot_panel<S, T, 2, 4>(panel, n_begin, n_end);
  for (; rows >= 1; rows -= advance(1)) dot_panel<S, T, 1, 8>(panel, n_begin, n_end);
}

}  // namespace fairway::kernels
