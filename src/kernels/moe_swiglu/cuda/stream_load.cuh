// The loading warps of the stream kernel.
#pragma once

#include "kernels/moe_swiglu/cuda/stream_args.cuh"
#include "kernels/trellis_band/cuda/ring.cuh"

namespace fairway::kernels::cuda {

// One lane's reading position in a matrix: a tile row of block `begin` of a band. The warp copies the kRows rows from
// first_row on of every block.
template <int kRows>
struct UnitSource {
  const unsigned char* words;
  std::size_t block_bytes;
  int band_bytes, row;

  __device__ UnitSource(const TrellisRef& m, int out, int band, int begin, int first_row)
      : block_bytes(std::size_t{2 * kBandTiles} * static_cast<unsigned>(out * m.bits)),
        band_bytes(2 * kBand * m.bits),
        row(first_row + static_cast<int>(threadIdx.x % kRows)) {
    words = m.words + block_bytes / kBandTiles * static_cast<unsigned>(begin * kBandTiles + row) +
            static_cast<std::size_t>(band) * static_cast<unsigned>(band_bytes);
  }
  __device__ __forceinline__ void load(RingCursor& ring, int blocks) {
    const int lane = threadIdx.x & 31;
    for (int i = 0; i < blocks; ++i) {
      ring.wait_empty();
      if (code_has_clusters()) {
        if (lane == 0) barrier_expect(ring.full(), kRows * band_bytes);
        __syncwarp();
        if (lane < kRows) bulk_load(ring.data() + row * band_bytes, words, band_bytes, ring.full());
      } else {
        copy_rows_by_lanes<kRows>(ring.data() + (row - lane % kRows) * band_bytes, words, band_bytes);
        copy_async_arrive(ring.full());
      }
      ring.advance();
      words += block_bytes;
    }
  }
};

// The vectors that the second phase will scale with, so that they wait in the L2 cache.
__device__ inline void prefetch_scales(const StreamArgs& a, const StreamTable& t) {
  constexpr int kSector = 16;  // halves
  const int lane = threadIdx.x & 31;
  Piece p;
  p.segment = t.run.segment;
  for (int at = t.run.begin, before = -1; next_piece(t, a.layer.hidden / kBand, true, t.run.end, at, p);) {
    const StreamSegment& s = t.segments[p.segment];
    const ExpertRef& e = a.layer.experts[s.expert];
    if (lane < kBand / kSector) prefetch_line(e.down.svh + p.band * kBand + lane * kSector);
    if (p.segment == before) continue;
    before = p.segment;
    for (int i = lane * kSector; i < s.bands * kBand; i += 32 * kSector) {
      prefetch_line(e.gate.svh + i);
      prefetch_line(e.up.svh + i);
      prefetch_line(e.down.suh + i);
    }
  }
}

// A loading warp: its rows of its team's units of both phases, as far as the ring has room; what the weights are
// multiplied with is none of its business. So at one token all weights of the run are on their way before anything is
// computed.
template <class Shape>
__device__ inline void load_run(const StreamArgs& a, const StreamTable& t, int loader, RingCursor ring) {
  constexpr int kRows = kBandTiles * Shape::kTeams / Shape::kLoaders;
  using Source = UnitSource<kRows>;
  const int hidden_blocks = a.layer.hidden / kBand, team = loader % Shape::kTeams;
  const int first_row = loader / Shape::kTeams * kRows;
  Piece p;
  p.segment = t.run.segment;
  for (int at = t.run.begin; next_piece(t, hidden_blocks, false, t.run.end, at, p);) {
    const StreamSegment& s = t.segments[p.segment];
    const ExpertRef& e = a.layer.experts[s.expert];
#pragma unroll 1
    for (int matrix = team; matrix < 2; matrix += Shape::kTeams) {
      Source(matrix == 0 ? e.gate : e.up, s.bands * kBand, p.band, p.begin, first_row).load(ring, p.count);
    }
  }
  if (loader == 0) prefetch_scales(a, t);
  p.segment = t.run.segment;
  for (int next = t.run.begin; next < t.run.end;) {
    p.segment = segment_of(t, hidden_blocks, next, p.segment);
    p.count = 0;
    const auto share = TeamShare::of<Shape>(t, p.segment, hidden_blocks, team, next);
    const TrellisRef& m = a.layer.experts[t.segments[p.segment].expert].down;
    for (int at = share.begin; next_piece(t, hidden_blocks, true, share.end, at, p);) {
      Source(m, a.layer.hidden, p.band, p.begin, first_row).load(ring, p.count);
    }
    next = share.next;
  }
}

}  // namespace fairway::kernels::cuda
