// The arguments of a launch and the walk over its work items. An item is a band of 128 outputs of one matrix for one
// segment, a run of rows of x; a cluster of `split` CTAs may share one by blocks of 128 inputs, and handles no other.
// Without clusters, so many neighbouring CTAs do the same and meet in memory, see linear_meet.cuh.
#pragma once

#include "kernels/trellis_band/cuda/band.cuh"
#include "kernels/trellis_band/cuda/walk_half.cuh"
#include "kernels/trellis_linear/cuda/trellis_linear_cuda.cuh"

namespace fairway::kernels::cuda {

constexpr int kMaxShares = 8;              // of an item: CTAs of the largest cluster
constexpr int kMostMeetings = 1024;        // items of a launch that CTAs without clusters share
constexpr int kMeetingFloats = kBand + 4;  // that one of them leaves of a row

struct LinearArgs {
  LinearCall call;
  int input_of[kMaxLinearOutputs];  // matrices with the same suh read the same transformed input
  int inputs;                       // of them there are so many
  int bands;                        // of all matrices
  int items;                        // bands times segments
  int groups;                       // of `split` CTAs
  int segment_rows;                 // of a segment, at most
  int split;
  int share_begin[kMaxShares + 1];  // the first block of every CTA of a cluster, and their number
  int ring_stages;
  int stage_bytes;
  int input_stride;  // paths that transform their inputs themselves: bytes between rows or columns of them
  // Paths for few weights: bytes of the transformed inputs, and 16-byte units of the sums that a CTA of a cluster gets.
  int few_input_bytes, few_gathered;
  // The other paths: [inputs][call.in / kBand][call.rows][kTokenRowBytes], transformed, fragment order, then the pad
  // that a stage of the ring has. Without clusters, behind that or here, what CTAs leave for each other.
  unsigned char* rows;

  // The blocks of an item are shared by so many CTAs, as equally as they can be.
  void share_items(int ctas) {
    split = ctas;
    for (int rank = 0; rank <= ctas; ++rank) share_begin[rank] = rank * (call.in / kBand) / ctas;
  }
};

// Of all matrices.
inline int count_bands(const LinearCall& call) {
  int count = 0;
  for (int i = 0; i < call.count; ++i) count += call.outputs[i].out / kBand;
  return count;
}

// Of one block and one row of LinearArgs::rows.
__device__ __forceinline__ unsigned char* linear_row(const LinearArgs& a, int input, int block, int row) {
  const std::size_t blocks = static_cast<std::size_t>(a.call.in / kBand);
  return a.rows + ((input * blocks + block) * a.call.rows + row) * kTokenRowBytes;
}

struct LinearItem {
  int output;  // index of LinearCall::outputs
  int band;    // of it
  int first_row, count;
};

// Bands of a segment are neighbours, so that a CTA keeps its transformed inputs from one item to the next.
__device__ __forceinline__ LinearItem get_linear_item(const LinearArgs& a, int index) {
  LinearItem item{};
  item.band = index;
  if (index >= a.bands) {  // not of the first segment: most calls have no other
    item.first_row = index / a.bands * a.segment_rows;
    item.band = index % a.bands;
  }
  item.count = min(a.segment_rows, a.call.rows - item.first_row);
  for (; item.band >= a.call.outputs[item.output].out / kBand; ++item.output) {
    item.band -= a.call.outputs[item.output].out / kBand;
  }
  return item;
}

// Rows of a segment that one CTA of a cluster finishes, at most.
__host__ __device__ __forceinline__ int cluster_rows(int segment_rows, int split) {
  return (segment_rows + split - 1) / split;
}

// The blocks of 128 inputs that one CTA of a cluster multiplies.
struct LinearShare {
  int begin, count;
};
__device__ __forceinline__ LinearShare linear_share(const LinearArgs& a, int rank) {
  return {a.share_begin[rank], a.share_begin[rank + 1] - a.share_begin[rank]};
}

}  // namespace fairway::kernels::cuda
