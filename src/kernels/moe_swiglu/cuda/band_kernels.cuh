// The instances of the band kernel, as the launcher sees them. Each translation unit holds a few: they take long to
// compile.
#pragma once

#include "kernels/moe_swiglu/cuda/band_args.cuh"

namespace fairway::kernels::cuda {

struct BandKernel {
  void (*run)(BandArgs);
  int tokens;             // of a segment, at most
  int ctas;               // of an SM, for which the registers are limited
  int shared_bytes;       // beside the ring and the input digits
  int stage_token_bytes;  // of a stage, beside the weights
  bool integer;
};

BandKernel int_band_kernel(int tokens);   // 4, 8
BandKernel half_band_kernel(int tokens);  // 8, 16
BandKernel half_band_kernel_many();       // 32

}  // namespace fairway::kernels::cuda
