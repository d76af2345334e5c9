// Rows of 16-byte pieces in shared memory, laid out so that eight rows at the same piece lie in different banks.
#pragma once

#include <cuda_runtime.h>

namespace fairway::kernels::cuda {

constexpr int kPieceBytes = 16;

// An odd number of pieces between rows does it. A multiple of eight stays as it is, and the lower bits of a row number
// are added to those of the piece instead: that needs no more memory.
struct RowLayout {
  int stride;  // pieces between rows
  int mask;

  __host__ __device__ static constexpr RowLayout of(int pieces) {
    return pieces % 8 == 0 ? RowLayout{pieces, 7} : RowLayout{pieces | 1, 0};
  }
  __host__ __device__ constexpr int bytes(int rows) const { return rows * stride * kPieceBytes; }
};

// One row, or the rows a multiple of eight below it. Tensor instructions take their operands from such rows, a fixed
// one for each lane, so that little is computed for each of them.
struct SharedRow {
  unsigned char* base;
  int flip;

  __device__ __forceinline__ unsigned char* piece(int column) const { return base + ((column * kPieceBytes) ^ flip); }
};

struct SharedRows {
  unsigned char* base;  // 16-byte aligned
  RowLayout layout;

  __device__ __forceinline__ SharedRow row(int r) const {
    return {base + r * layout.stride * kPieceBytes, (r & layout.mask) * kPieceBytes};
  }
  __device__ __forceinline__ unsigned char* piece(int r, int column) const { return row(r).piece(column); }
};

}  // namespace fairway::kernels::cuda
