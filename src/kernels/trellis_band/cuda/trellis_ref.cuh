// A trellis-coded matrix in device memory.
#pragma once

#include <cuda_fp16.h>

namespace fairway::kernels::cuda {

// y = x W with W = diag(suh) H inner H diag(svh), inner [in, out] in 16 x 16 tiles.
struct TrellisRef {
  const unsigned char* words;  // [in/16][out/16][32 * bits] bytes as on disk, 16-byte aligned
  const __half* suh;           // [in], 8-byte aligned
  const __half* svh;           // [out], 8-byte aligned
  int bits;                    // 1..8
  int codebook;                // codec::Codebook
};

}  // namespace fairway::kernels::cuda
