// mla_prepare() and mla_absorb() of few rows as one kernel: CTAs that absorb, and behind them CTAs that rotate and fill
// the cache, a warp for each part of a row.
#pragma once

#include "kernels/attention_mla/cuda/mla_projection_few.cuh"
#include "kernels/rope/cuda/mla_unit.cuh"

namespace fairway::kernels::cuda {

constexpr int kAskedRows = 4;               // of a call, whose positions are asked for
constexpr long long kMostAsked = 24 << 20;  // bytes, about half of the second-level cache

struct PrepareAbsorb {
  MlaPrepare prepare;
  MlaUpProjection up;
  int block_rows;   // of CTAs that absorb, along y
  int absorb_ctas;  // along x
};

// Asks for a share of the positions that each row will attend to: attention, which starts soon, then waits less for
// memory. One thread of a CTA that absorbs, while the kernel ahead still runs.
template <CacheType kType>
__device__ __forceinline__ void ask_for_positions(const PrepareAbsorb& a) {
  constexpr unsigned kLine = 128;
  const MlaPrepare& p = a.prepare;
  constexpr int kElemBytes = kType == CacheType::kHalf ? 2 : 1;
  const long long row_bytes = static_cast<long long>(p.cache.row_elems) * kElemBytes;
  for (int r = static_cast<int>(blockIdx.y); r < p.rows.count; r += static_cast<int>(gridDim.y)) {
    const long long all = p.rows.position[r] * row_bytes;
    if (all * p.rows.count > kMostAsked) continue;
    const auto bytes = static_cast<unsigned>(all);
    const unsigned share = (bytes / static_cast<unsigned>(a.absorb_ctas) + kLine) / kLine * kLine;
    const unsigned begin = blockIdx.x * share;
    if (begin >= bytes) continue;
    const auto* const keys = static_cast<const unsigned char*>(p.cache.data) +
                             p.rows.sequence[r] * static_cast<long long>(p.cache.sequence_rows) * row_bytes;
    bulk_prefetch(keys + begin, min(share, bytes - begin));
  }
}

template <CacheType kType, UpWeight kUp>
__global__ void __launch_bounds__(kFewThreads) prepare_absorb_kernel(const __grid_constant__ PrepareAbsorb a) {
  const MlaPrepare& p = a.prepare;
  const int rows = p.rows.count, x = static_cast<int>(blockIdx.x), y = static_cast<int>(blockIdx.y);
  if (x < a.absorb_ctas) {
    const int begin = y * a.block_rows;
    absorb_rows<kUp, float>(a.up, {p.q, p.ldq, p.nope + p.angles.dim}, begin, min(begin + a.block_rows, rows), p.q_full,
                            p.latent + p.angles.dim, [&] {
                              if (rows <= kAskedRows && threadIdx.x == 0) ask_for_positions<kType>(a);
                            });
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
