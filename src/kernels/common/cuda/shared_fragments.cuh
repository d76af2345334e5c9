// The second operand of tensor instructions from rows of halves in shared memory.
#pragma once

#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/shared_rows.cuh"

namespace fairway::kernels::cuda {

// 8 * kTiles columns of an operand from rows that hold a column each, 16 elements along the sum.
template <int kTiles>
class ColumnOperand {
 public:
  __device__ ColumnOperand(const SharedRows& rows, int first_column, int lane)
      : row_(rows.row(first_column + lane / 16 * 8 + lane % 8)),
        half_(lane / 8 % 2),
        pair_bytes_(rows.layout.bytes(16)) {}

  // b: elements [16 * step, + 16).
  __device__ __forceinline__ void load(int step, unsigned (&b)[kTiles][2]) const {
    const unsigned char* const from = row_.piece(2 * step + half_);
#pragma unroll
    for (int t = 0; t < kTiles; t += 2) {
      if (t + 1 < kTiles) {
        unsigned two[4];
        load_matrices_x4(two, from + t / 2 * pair_bytes_);
        b[t][0] = two[0], b[t][1] = two[1], b[t + 1][0] = two[2], b[t + 1][1] = two[3];
      } else {
        load_matrices_x2(b[t], from + t / 2 * pair_bytes_);
      }
    }
  }

 private:
  SharedRow row_;
  int half_, pair_bytes_;
};

// The same from rows that hold an element of all columns each.
template <int kTiles>
class RowOperand {
 public:
  // The first column is a multiple of 8.
  __device__ RowOperand(const SharedRows& rows, int first_column, int lane)
      : row_(rows.row(lane % 16)), first_piece_(first_column / 8 + lane / 16), step_bytes_(rows.layout.bytes(16)) {}

  __device__ __forceinline__ void load(int step, unsigned (&b)[kTiles][2]) const {
#pragma unroll
    for (int t = 0; t < kTiles; t += 2) {
      const unsigned char* const from = row_.piece(first_piece_ + t) + step * step_bytes_;
      if (t + 1 < kTiles) {
        unsigned two[4];
        load_matrices_transposed_x4(two, from);
        b[t][0] = two[0], b[t][1] = two[1], b[t + 1][0] = two[2], b[t + 1][1] = two[3];
      } else {
        load_matrices_transposed_x2(b[t], from);
      }
    }
  }

 private:
  SharedRow row_;
  int first_piece_, step_bytes_;
};

}  // namespace fairway::kernels::cuda
