// Causal attention over a layer's cache, for few rows and for many: softmax(scale * q k) v.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>

#include "kernels/common/cuda/pass.cuh"

namespace fairway::kernels::cuda {

constexpr float kLog2E = 1.4426950408889634f;  // kernels compute e^x as 2^(x * kLog2E)

// Multi-head latent attention in its absorbed form is one key/value head whose value is the first part of its key;
// query heads are then those of the latent space. Grouped-query attention has keys and values side by side.
//
// All pointers are device memory, q and out 16-byte aligned, and q and out do not overlap.
struct AttendCall {
  const __half* q;  // [rows, heads, key_dim]
  LayerCache cache;
  int heads, kv_heads;     // query head h reads key/value head h / (heads / kv_heads)
  int key_dim, value_dim;  // multiples of 16, at most 576 and 512
  // Elements of a cache row, multiples of 16: key/value head g has its key at key_offset + g * key_stride.
  int key_offset, key_stride, value_offset, value_stride;
  PassRows rows;      // row r attends to positions [0, position[r]] of sequence[r]; they are in the cache already
  bool one_sequence;  // the rows are consecutive positions of one sequence, and share the keys they read
  int max_context;  // no position[r] + 1 is larger. It only chooses the number of splits: a recorded call is right for
                    // any positions within the cache
  // If positive: of the positions that a row attends to, all but the last `fresh` ones were written by the kernel
  // before last or earlier, and so were `sequence` and `position`. CTAs then load them while the kernel ahead still
  // runs. A decode step has 1, a pass over one sequence its number of rows. 0: nothing is known.
  int fresh;
  float scale;  // of the scores
  __half* out;  // [rows, heads, value_dim]
};

// Scratch that attend() may need for this call, and for any with fewer rows or a smaller max_context. Its contents need
// not be kept or prepared. On the current device.
std::size_t attend_workspace_bytes(const AttendCall& largest);

// Two launches if the keys are split among CTAs, else one. Deterministic. workspace: 256-byte aligned.
// Cache rows after position[r] have no influence on row r, whatever bits they have; with one_sequence that holds for
// rows after the last position of the call, and those in between must be finite.
// Sums and softmax in floats, probabilities in halves; if the keys are split, the results of the splits too. For a row
// and head |out - exact| <= 1e-3 |exact|, exact being of the cache as it is stored, and 3e-3 for scores of some
// hundreds, of which a float has no more. Throws Error(kUsage) for dimensions out of the ranges above.
void attend(const AttendCall& call, void* workspace, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
