// How the CTAs that share an item meet where there are no clusters: each leaves its sums in the call's scratch, and the
// one that comes last adds all of them up, in the order of the shares, and finishes the item. Nobody waits.
//
// Who has come is counted on the device, by words of the module that are zero when it is loaded and again after every
// launch. So launches on one device must follow each other: on one stream, or on streams that wait for each other.
#pragma once

#include "kernels/trellis_linear/cuda/linear_args.cuh"

namespace fairway::kernels::cuda {

static __device__ unsigned linear_arrivals[kMostMeetings];  // CTAs of an item that have left their sums

// What a CTA leaves of each row of its item: its sums, then the squares of its inputs before a norm.
struct LinearSums {
  float* rows;  // of the item: [split][segment_rows][kMeetingFloats]
  int segment_rows;

  __device__ __forceinline__ float* row(int rank, int i) const {
    return rows + (rank * segment_rows + i) * kMeetingFloats;
  }
};

// streamed: LinearArgs::rows holds transformed inputs.
__device__ __forceinline__ LinearSums linear_sums(const LinearArgs& a, bool streamed, int index) {
  unsigned char* const begin = streamed ? linear_row(a, a.inputs, 0, 0) : a.rows;
  const std::size_t item = static_cast<std::size_t>(index) * static_cast<unsigned>(a.split * a.segment_rows);
  return {reinterpret_cast<float*>(begin) + item * kMeetingFloats, a.segment_rows};
}

// The computing threads of a CTA, when its sums are written. True for the CTA that is the last of the item; then those
// of all CTAs may be read, but not from the L1 cache. last: in shared memory.
__device__ __forceinline__ bool is_last_of_item(const LinearArgs& a, int index, int* last) {
  __threadfence();
  consumer_sync<kComputeThreads>();
  if (threadIdx.x == 0) {
    const bool all = atomicAdd(&linear_arrivals[index], 1u) == static_cast<unsigned>(a.split - 1);
    if (all) linear_arrivals[index] = 0;
    *last = all ? 1 : 0;
  }
  consumer_sync<kComputeThreads>();
  __threadfence();
  return *last != 0;
}

}  // namespace fairway::kernels::cuda
