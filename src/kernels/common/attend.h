// attend: the inner part of every attention kernel. A few query rows meet a segment of keys and values; the softmax
// runs online, so a sequence of segments of any length needs scratch for one block of keys only.
#pragma once

#include <cstdint>

#include "kernels/common/matrix.h"
#include "kernels/dense_linear/dense_dot.h"

namespace fairway::kernels {

constexpr int kAttendKeyBlock = 256;  // keys per softmax step; blocks start at multiples of it
constexpr int kAttendMaxRows = 64;    // query rows per call

// Running softmax of one query row: the largest score so far and the sum of exp(score - max).
struct AttendState {
  float max;
  double sum;
};

// Rows of one call: q[r] has dk values, out[r] dv values (the sum of exp(score - max) * value so far, undefined before
// the first segment), limit[r] is the number of positions the row may see.
struct AttendRows {
  const float* const* q;
  float* const* out;
  AttendState* state;
  const int* limit;
  int rows;  // 1 .. kAttendMaxRows
};

// Positions [first, first + count), first a multiple of kAttendKeyBlock. Values: [count, dv], row stride ldv. Keys are
// [count, dk] with row stride ldk, or, if transposed, [dk, count] with ldk >= count. Strides in elements.
struct AttendSegment {
  int first, count;
  const float* keys;
  std::int64_t ldk;
  bool transposed;
  const float* values;
  std::int64_t ldv;
  int dk, dv;
};

// One entry per instruction set. All functions run on the calling thread and give a row the same bits whatever other
// rows it is grouped with. scratch: attend_scratch_floats() floats.
struct AttendOps {
  // Adds a segment to the rows' state and sums. The segment with first == 0 starts them; it must come first, and every
  // row must see at least one position (limit >= 1).
  void (*attend)(const AttendRows& rows, const AttendSegment& segment, float scale, float* scratch);
  // out[r][0..dv) /= sum, after the last segment.
  void (*finish)(const AttendRows& rows, int dv);
  // y[j * ldy + i] = x[i * ldx + j] for i < rows, j < columns.
  void (*transpose)(const float* x, std::int64_t ldx, int rows, int columns, float* y, std::int64_t ldy);
  // y[r][c] = sum over n of x[r][n] * w[row + n][c], 0 <= n < count, c < w.in: the transposed product of some rows of
  // w.
  void (*combine)(const DenseMatrix& w, int row, int count, const float* const* x, int rows, float* const* y);
  DenseDotFn dense_dot;
};

constexpr int attend_scratch_floats() {
  return 8 * kAttendKeyBlock;
}

extern const AttendOps kAttendAvx2;
extern const AttendOps kAttendAvx512;

}  // namespace fairway::kernels
