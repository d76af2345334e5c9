// The last step of a linear layer: what is added, and stores of rows at any alignment.
#pragma once

#include "kernels/trellis_linear/cuda/trellis_linear_cuda.cuh"

namespace fairway::kernels::cuda {

// Four columns of one output, from `column` on.
struct LinearPlaces {
  const LinearOutput& output;
  int column;

  __device__ float* y(int row) const { return output.y + row * output.ldy + column; }
  __device__ bool vectors(const float* p) const {
    return column + 4 <= output.out_exact && (reinterpret_cast<std::size_t>(p) & 15) == 0;
  }

  // What a row's product is added to.
  __device__ void load_old(int row, float (&old)[4]) const {
    const float* p = y(row);
    old[0] = old[1] = old[2] = old[3] = 0;
    if (!output.add) return;
    if (vectors(p)) {
      *reinterpret_cast<float4*>(old) = *reinterpret_cast<const float4*>(p);
      return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (column + i < output.out_exact) old[i] = p[i];
    }
  }

  __device__ void store(int row, const float (&v)[4]) const {
    float* p = y(row);
    if (vectors(p)) {
      *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
      return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (column + i < output.out_exact) p[i] = v[i];
    }
  }
};

}  // namespace fairway::kernels::cuda
