// Operands of the tensor instructions from tiles in shared memory, by the type of the cache.
//
// E4M3 stays as it is in shared memory and becomes halves in registers: half the bytes to move. A lane then has bytes
// that are not where the instruction expects them, but the order of a sum does not matter, nor that of the outputs:
// - Keys: of 16 elements the lane with lane % 4 = i has bytes 4 i .. 4 i + 3, where elements 2 i, 2 i + 1, 2 i + 8 and
//   2 i + 9 belong. Queries are stored in the same order.
// - Values: of 16 elements of a position the lane with lane / 4 = i has bytes 2 i and 2 i + 1, where i and i + 8
// belong.
#pragma once

#include <cuda_fp16.h>

#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/shared_rows.cuh"

namespace fairway::kernels::cuda {

__device__ __forceinline__ unsigned pair_of(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}

template <CacheType kType>
struct AttendFragments;

template <>
struct AttendFragments<CacheType::kHalf> {
  // Where a lane reads: the row of the first of 16 positions, from which key() takes elements [16 * step, + 16).
  __device__ static __forceinline__ int key_row(int lane) { return lane % 16; }
  __device__ static __forceinline__ void key(const SharedRow& row, int offset, int step, int lane, unsigned (&a)[4]) {
    load_matrices_x4(a, row.piece(2 * step + lane / 16) + offset);
  }
  // Where a lane reads 16 values of 16 positions, from the row and the piece of the first of them.
  __device__ static __forceinline__ int value_row(int lane) { return lane % 8 + lane / 16 * 8; }
  __device__ static __forceinline__ int value_piece(int tile, int lane) { return 2 * tile + lane / 8 % 2; }
  __device__ static __forceinline__ void value(const unsigned char* from, unsigned (&a)[4]) {
    load_matrices_transposed_x4(a, from);
  }
  // 16 values of 8 queries times their factors, those of a lane's two, as halves to rows of 16-byte aligned memory. to:
  // the first value of the first query.
  __device__ static __forceinline__ void store_values(unsigned char* to, int row_bytes, int lane, const float (&d)[4],
                                                      float2 factor) {
    const unsigned pairs[2] = {pair_of(d[0] * factor.x, d[1] * factor.y), pair_of(d[2] * factor.x, d[3] * factor.y)};
    store_matrices_transposed_x2(to + lane % 8 * row_bytes + lane / 8 % 2 * kPieceBytes, pairs);
  }
};

template <>
struct AttendFragments<CacheType::kE4m3> {
  __device__ static __forceinline__ int key_row(int lane) { return lane % 16; }
  __device__ static __forceinline__ void key(const SharedRow& row, int offset, int step, int, unsigned (&a)[4]) {
    unsigned bytes[2];
    load_matrices_x2(bytes, row.piece(step) + offset);
    for (int i = 0; i < 2; ++i) {
      a[i] = halves_from_e4m3(bytes[i] & 0xFFFFu);
      a[i + 2] = halves_from_e4m3(bytes[i] >> 16);
    }
  }
  __device__ static __forceinline__ int value_row(int lane) { return lane % 16; }
  __device__ static __forceinline__ int value_piece(int tile, int) { return tile; }
  __device__ static __forceinline__ void value(const unsigned char* from, unsigned (&a)[4]) {
    unsigned bytes[2];
    load_matrices_transposed_x2(bytes, from);
    for (int i = 0; i < 2; ++i) {
      const unsigned here = halves_from_e4m3(bytes[i] & 0xFFFFu), next = halves_from_e4m3(bytes[i] >> 16);
      a[2 * i] = __byte_perm(here, next, 0x5410);
      a[2 * i + 1] = __byte_perm(here, next, 0x7632);
    }
  }
  // Rows i and i + 8 of an output tile are values 2 * i and 2 * i + 1.
  __device__ static __forceinline__ void store_values(unsigned char* to, int row_bytes, int lane, const float (&d)[4],
                                                      float2 factor) {
    unsigned char* const mine = to + lane % 4 * 2 * row_bytes + lane / 4 * 4;
    *reinterpret_cast<unsigned*>(mine) = pair_of(d[0] * factor.x, d[2] * factor.x);
    *reinterpret_cast<unsigned*>(mine + row_bytes) = pair_of(d[1] * factor.y, d[3] * factor.y);
  }
  // 16 elements of a query, reordered, to pieces 2 * step and 2 * step + 1.
  __device__ static __forceinline__ void store_query(const SharedRows& rows, int row, int step, uint4 low, uint4 high) {
    *reinterpret_cast<uint4*>(rows.piece(row, 2 * step)) = make_uint4(low.x, low.z, high.x, high.z);
    *reinterpret_cast<uint4*>(rows.piece(row, 2 * step + 1)) = make_uint4(low.y, low.w, high.y, high.w);
  }
};

}  // namespace fairway::kernels::cuda
