// What the launches of an attention call agree on: how queries and positions are cut into units, tiles and splits.
#pragma once

#include "kernels/common/cuda/attend.cuh"
#include "kernels/common/cuda/shared_rows.cuh"

namespace fairway::kernels::cuda {

constexpr int kAttendTile = 64;  // positions of a tile
constexpr int kMaxKeyDim = 576, kMaxValueDim = 512;
constexpr int kAttendThreads = 256;
constexpr int kAttendWarps = kAttendThreads / 32;

// The queries of a key/value head are numbered row * group + head within the group. A unit is a range of them that one
// CTA takes: of one row, or of several with one_sequence.
struct AttendArgs {
  AttendCall call;
  int group;                   // query heads of a key/value head
  int row_units;               // units of a row, or of all rows with one_sequence
  int splits;                  // the tiles of a unit are divided among so many CTAs
  int key_pieces, row_pieces;  // pieces of 16 bytes of a key, and of what a CTA loads of a position
  int value_piece;             // where the value begins in that
  float scale_log2;            // scores in units of log2, for exp2
  __half* partial;  // [rows * heads, splits, value_dim], each as if its split were all there is. Unused if splits is 1
  float* weights;   // [rows * heads, splits] log2 of the sum of exponentials
};

struct AttendSpan {
  int begin, end;  // tiles
};
// n / by for n < 2^21, rounded up: n / by and the next integer are further apart than the quotient is wrong.
__device__ __forceinline__ int few_divided_up(int n, int by) {
  return static_cast<int>(__fdividef(static_cast<float>(n + by) - 0.5f, static_cast<float>(by)));
}
// Split `split` of a unit whose rows attend to positions [0, last_position].
__device__ __forceinline__ AttendSpan attend_span(int last_position, int splits, int split) {
  const int tiles = last_position / kAttendTile + 1;
  const int share = few_divided_up(tiles, splits);
  const int begin = split * share;
  return {begin, begin + share < tiles ? begin + share : tiles};
}
// Splits that have tiles.
__device__ __forceinline__ int attend_used_splits(int last_position, int splits) {
  const int tiles = last_position / kAttendTile + 1;
  return few_divided_up(tiles, few_divided_up(tiles, splits));
}

// An instance of the kernel and its facts.
struct AttendKernel {
  void (*run)(AttendArgs);
  int queries;  // of a unit
  int ctas;     // that an SM has registers for
  int (*shared_bytes)(const AttendArgs&);
};
// queries: of all rows that may share a unit.
AttendKernel attend_kernel_half(int queries, int value_dim);
AttendKernel attend_kernel_e4m3(int queries, int value_dim);
// The same in less shared memory.
AttendKernel attend_kernel_half_small(int queries);
AttendKernel attend_kernel_e4m3_small(int queries);
// For calls that latent_fits(), with splits, of a few tiles each.
AttendKernel attend_kernel_latent(const AttendCall& call);
bool latent_fits(const AttendCall& call);

// What attend() launches first. Without splits it writes the call's `out`; a kernel that merges them itself
// (attend_merge.cuh) saves a launch.
struct AttendPlan {
  AttendKernel kernel;
  AttendArgs args;
  int units;  // CTAs of a key/value head and split
  int shared_bytes;
  bool is_latent;  // the kernel is that of attend_latent.cuh
};
AttendPlan plan_attend(const AttendCall& call, void* workspace);
void launch_attend_units(const AttendPlan& plan, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
