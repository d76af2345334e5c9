// mla_prepare() and mla_absorb() of few rows as one kernel: CTAs that absorb, and behind them CTAs that rotate and fill
// the cache, a warp for each part of a row.
#pragma once

#include "kernels/attention_mla/cuda/mla_projection_few.cuh"
#include "kernels/rope/cuda/mla_unit.cuh"

namespace fairway::kernels::cuda {

struct PrepareAbsorb {
  MlaPrepare prepare;
  MlaUpProjection up;
  int block_rows;   // of CTAs that absorb, along y
  int absorb_ctas;  // along x
};

template <CacheType kType, UpWeight kUp>
__global__ void __launch_bounds__(kFewThreads) prepare_absorb_kernel(const __grid_constant__ PrepareAbsorb a) {
  const MlaPrepare& p = a.prepare;
  const int rows = p.rows.count, x = static_cast<int>(blockIdx.x), y = static_cast<int>(blockIdx.y);
  if (x < a.absorb_ctas) {
    const int begin = y * a.block_rows;
    absorb_rows<kUp, float>(a.up, {p.q, p.ldq, p.nope + p.angles.dim}, begin, min(begin + a.block_rows, rows), p.q_full,
                            p.latent + p.angles.dim);
    return;
  }
  const int others = static_cast<int>(gridDim.x) - a.absorb_ctas, units = p.heads + 1;
  const int warps = others * static_cast<int>(gridDim.y) * (kFewThreads / 32);
  const int warp =
      ((x - a.absorb_ctas) * static_cast<int>(gridDim.y) + y) * (kFewThreads / 32) + static_cast<int>(threadIdx.x) / 32;
  // Cache rows, which take longest, come first.
  for (int i = warp; i < rows * units; i += warps) {
    prepare_mla_unit<kType, false>(p, i % rows, p.heads - i / rows);
  }
}

}  // namespace fairway::kernels::cuda
