// Transformed inputs of many rows as the wide paths read them: panels of 64 inputs, in a panel 128 bytes for each row,
// and in a row the 16-byte chunk c in place c ^ (row & 7). Rows whose first one is a multiple of eight can be copied to
// shared memory as they are and are then what swizzled_rows() describes.
#pragma once

#include "kernels/trellis_band/cuda/transform.cuh"
#include "kernels/trellis_band/cuda/walk_wide.cuh"

namespace fairway::kernels::cuda {

// Where inputs k .. k + 3 of a row are; k is a multiple of four. rows: of a panel.
__device__ __forceinline__ uint2* panel_place(__half* panels, int rows, int row, int k) {
  const int panel = k / kWidePanel, chunk = (k % kWidePanel / 8) ^ (row & 7);
  return reinterpret_cast<uint2*>(panels + (static_cast<std::size_t>(panel) * rows + row) * kWidePanel + chunk * 8 +
                                  (k & 4));
}

__device__ __forceinline__ uint2 to_half4(float a, float b, float c, float d) {
  return make_uint2(as_bits(to_half2(a, b)), as_bits(to_half2(c, d)));
}

}  // namespace fairway::kernels::cuda
