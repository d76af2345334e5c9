// attend for every instruction set: scores by register tiles, online softmax, values by register tiles.
#pragma once

#include <limits>

#include "kernels/common/attend.h"
#include "kernels/common/combine_tiles.h"
#include "kernels/common/expf.h"
#include "kernels/dense_linear/dot_tiles.h"

namespace fairway::kernels {

// Turns n scores of a row into exp(score * scale - max) in place, zeros from n to `padded`, and moves the row's state
// and its sums of values to the new maximum.
template <class S>
void attend_softmax(float* scores, int n, int padded, float scale, AttendState& state, float* out, int dv) {
  using Vec = typename S::Vec;
  const Vec lowest = S::set1(-std::numeric_limits<float>::infinity()), factor = S::set1(scale);
  Vec block_max = lowest;
  int t = 0;
  for (; t + S::kLanes <= n; t += S::kLanes) block_max = S::max(block_max, S::mul(S::load(scores + t), factor));
  if (t < n) {
    block_max = S::max(block_max, S::blend_first(S::mul(S::load_tail(scores + t, n - t), factor), lowest, n - t));
  }
  const float top = S::reduce_max(block_max);
  const float new_max = top > state.max ? top : state.max;
  // exp below -87 is subnormal, which costs an assist per operation; exp(-87) = 1.6e-38 vanishes in a sum >= 1.
  const Vec shift = S::set1(new_max), floor = S::set1(-87.0f);
  const auto probability = [&](Vec score) { return exp_poly<S>(S::max(floor, S::sub(S::mul(score, factor), shift))); };

  Vec sum = S::zero();
  for (t = 0; t + S::kLanes <= n; t += S::kLanes) {
    const Vec p = probability(S::load(scores + t));
    S::store(scores + t, p);
    sum = S::add(sum, p);
  }
  if (t < n) {
    const Vec p = S::blend_first(probability(S::load_tail(scores + t, n - t)), S::zero(), n - t);
    S::store_tail(scores + t, p, n - t);
    sum = S::add(sum, p);
  }
  for (t = n; t < padded; ++t) scores[t] = 0.0f;

  if (new_max != state.max) {
    const Vec correction = exp_poly<S>(S::max(floor, S::set1(state.max - new_max)));
    state.sum *= S::first_lane(correction);
    int i = 0;
    for (; i + S::kLanes <= dv; i += S::kLanes) S::store(out + i, S::mul(S::load(out + i), correction));
    if (i < dv) S::store_tail(out + i, S::mul(S::load_tail(out + i, dv - i), correction), dv - i);
    state.max = new_max;
  }
  float sums[4];
  S::sum4(sum, S::zero(), S::zero(), S::zero(), sums);
  state.sum += sums[0];
}

// One block of at most kAttendKeyBlock keys for one group of rows.
template <class S>
void attend_block(const AttendRows& rows, int row, int group, const AttendSegment& segment, int block, int count,
                  float scale, float* scratch) {
  const int position = segment.first + block;
  int seen = 0;  // keys of the block that some row of the group sees
  for (int r = 0; r < group; ++r) {
    const int n = rows.limit[row + r] - position;
    seen = n > seen ? n : seen;
  }
  if (seen <= 0) return;
  seen = seen < count ? seen : count;

  float* scores[S::kRows];
  const float* factors[S::kRows];
  for (int r = 0; r < group; ++r) factors[r] = scores[r] = scratch + r * kAttendKeyBlock;
  constexpr DenseType kType = DenseType::kF32;
  const auto bytes = [](const float* p) { return reinterpret_cast<const std::uint8_t*>(p); };
  if (segment.transposed) {
    combine_rows<S, kType>({rows.q + row, segment.dk, bytes(segment.keys + block), segment.ldk * 4, scores, false},
                           group, seen);
  } else {
    dot_rows<S, kType>(
        {rows.q + row, bytes(segment.keys + block * segment.ldk), segment.ldk * 4, segment.dk, scores, nullptr, false},
        group, 0, seen);
  }
  for (int r = 0; r < group; ++r) {
    const int left = rows.limit[row + r] - position;
    const int n = left < seen ? left : seen;
    if (n > 0) {
      attend_softmax<S>(scores[r], n, seen, scale, rows.state[row + r], rows.out[row + r], segment.dv);
    } else {
      for (int t = 0; t < seen; ++t) scores[r][t] = 0.0f;
    }
  }
  combine_rows<S, kType>(
      {factors, seen, bytes(segment.values + block * segment.ldv), segment.ldv * 4, rows.out + row, true}, group,
      segment.dv);
}

template <class S>
void attend_generic(const AttendRows& rows, const AttendSegment& segment, float scale, float* scratch) {
  if (segment.first == 0) {
    for (int r = 0; r < rows.rows; ++r) {
      rows.state[r].max = -std::numeric_limits<float>::infinity();
      rows.state[r].sum = 0.0;
      for (int i = 0; i < segment.dv; ++i) rows.out[r][i] = 0.0f;
    }
  }
  for (int block = 0; block < segment.count; block += kAttendKeyBlock) {
    const int left = segment.count - block;
    const int count = left < kAttendKeyBlock ? left : kAttendKeyBlock;
    for (int row = 0; row < rows.rows; row += S::kRows) {
      const int group = rows.rows - row < S::kRows ? rows.rows - row : S::kRows;
      attend_block<S>(rows, row, group, segment, block, count, scale, scratch);
    }
  }
}

template <class S>
void attend_finish_generic(const AttendRows& rows, int dv) {
  for (int r = 0; r < rows.rows; ++r) {
    const auto inverse = static_cast<float>(1.0 / rows.state[r].sum);
    for (int i = 0; i < dv; ++i) rows.out[r][i] *= inverse;
  }
}

template <class S>
void transpose_generic(const float* x, std::int64_t ldx, int rows, int columns, float* y, std::int64_t ldy) {
  for (int j = 0; j < columns; ++j) {
    int i = 0;
    for (; i + S::kLanes <= rows; i += S::kLanes) S::store(y + j * ldy + i, S::gather(x + i * ldx + j, ldx));
    for (; i < rows; ++i) y[j * ldy + i] = x[i * ldx + j];
  }
}

template <class S>
void combine_generic(const DenseMatrix& w, int row, int count, const float* const* x, int rows, float* const* y) {
  const std::int64_t stride = w.in * (w.type == DenseType::kF32 ? 4 : 2);
  const CombinePanel panel{x, count, w.data + row * stride, stride, y, false};
  switch (w.type) {
    case DenseType::kF32:
      return combine_rows<S, DenseType::kF32>(panel, rows, w.in);
    case DenseType::kF16:
      return combine_rows<S, DenseType::kF16>(panel, rows, w.in);
    case DenseType::kBf16:
      return combine_rows<S, DenseType::kBf16>(panel, rows, w.in);
  }
}

}  // namespace fairway::kernels
