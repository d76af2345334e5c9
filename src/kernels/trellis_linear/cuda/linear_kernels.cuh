// The instances of the kernel, as the launcher sees them. Each translation unit holds a few: they take long to compile.
#pragma once

#include "kernels/trellis_linear/cuda/linear_args.cuh"

namespace fairway::kernels::cuda {

// The transformed inputs of an item in shared memory.
struct InputMemory {
  int rows;         // halves of a row of x, or high or low digits of one; 0: inputs are streamed
  int block_bytes;  // of one of these rows
  int pad_bytes;    // after a row; separates the banks
};

struct LinearKernel {
  void (*run)(LinearArgs);
  int rows;             // of a segment, at most
  int ctas;             // of an SM, for which the registers are limited
  int shared_bytes;     // beside the ring and the inputs
  int stage_row_bytes;  // of a stage, beside the weights
  InputMemory input;
  int norm_blocks;              // with a norm in front: blocks of all rows of an item that a CTA may have
  bool groups_along_y = false;  // of the grid; CTAs of a cluster along x
  // For calls whose clusters, of more than one CTA, have an item each, with room for all of its weights; null: run.
  void (*run_single)(LinearArgs) = nullptr;
};

LinearKernel linear_int_kernel(int rows);   // 4, 8
LinearKernel linear_one_row_kernel();       // needs clusters
LinearKernel linear_half_kernel(int rows);  // 8, 16
LinearKernel linear_streamed_kernel();      // 32

}  // namespace fairway::kernels::cuda
