// The loading warp of the stream kernel.
#pragma once

#include "kernels/moe_swiglu/cuda/stream_args.cuh"
#include "kernels/trellis_band/cuda/ring.cuh"

namespace fairway::kernels::cuda {

__device__ __forceinline__ void load_unit(RingCursor& ring, const unsigned char* words, int band_bytes) {
  const int lane = threadIdx.x & 31;
  ring.wait_empty();
  if (lane == 0) barrier_expect(ring.full(), kBandTiles * band_bytes);
  __syncwarp();
  if (lane < kBandTiles) bulk_load(ring.data() + lane * band_bytes, words, band_bytes, ring.full());
  ring.advance();
}

// One lane's reading position in a matrix: the tile row of its lane in block `begin` of a band.
struct UnitSource {
  const unsigned char* words;
  std::size_t block_bytes;
  int band_bytes;

  __device__ UnitSource(const TrellisRef& m, int out, int band, int begin)
      : block_bytes(std::size_t{2 * kBandTiles} * static_cast<unsigned>(out * m.bits)), band_bytes(2 * kBand * m.bits) {
    const int row = begin * kBandTiles + static_cast<int>(threadIdx.x & (kBandTiles - 1));
    words = m.words + block_bytes / kBandTiles * static_cast<unsigned>(row) +
            static_cast<std::size_t>(band) * static_cast<unsigned>(band_bytes);
  }
  __device__ void load(RingCursor& ring) {
    load_unit(ring, words, band_bytes);
    words += block_bytes;
  }
};

// The vectors that the second phase will scale with, so that they wait in the L2 cache.
__device__ inline void prefetch_scales(const StreamArgs& a, const StreamTable& t) {
  constexpr int kSector = 16;  // halves
  const int lane = threadIdx.x & 31;
  Piece p;
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

// Two sources, block by block from each, as long as they last. ring_b: of the second team, or the same ring.
__device__ inline void load_both(UnitSource a, int blocks_a, RingCursor& ring_a, UnitSource b, int blocks_b,
                                 RingCursor& ring_b) {
  for (int i = 0; i < max(blocks_a, blocks_b); ++i) {
    if (i < blocks_a) a.load(ring_a);
    if (i < blocks_b) b.load(ring_b);
  }
}

// The loading warp: the units of both phases, as far as the rings have room; what the weights are multiplied with is
// none of its business. So at one token all weights of the run are on their way before anything is computed.
template <class Shape>
__device__ inline void load_run(const StreamArgs& a, const StreamTable& t, RingCursor (&rings)[Shape::kTeams]) {
  const int hidden_blocks = a.layer.hidden / kBand;
  Piece p;
  for (int at = t.run.begin; next_piece(t, hidden_blocks, false, t.run.end, at, p);) {
    const StreamSegment& s = t.segments[p.segment];
    const ExpertRef& e = a.layer.experts[s.expert];
    UnitSource gate(e.gate, s.bands * kBand, p.band, p.begin), up(e.up, s.bands * kBand, p.band, p.begin);
    if constexpr (Shape::kTeams == 2) {
      load_both(gate, p.count, rings[0], up, p.count, rings[1]);
    } else {
      for (int block = 0; block < p.count; ++block) gate.load(rings[0]);
      for (int block = 0; block < p.count; ++block) up.load(rings[0]);
    }
  }
  prefetch_scales(a, t);
  p = {};
  for (int at = t.run.begin; next_piece(t, hidden_blocks, true, t.run.end, at, p);) {
    const TrellisRef& m = a.layer.experts[t.segments[p.segment].expert].down;
    if constexpr (Shape::kTeams == 2) {
      const int half = first_half(at - p.count - t.run.begin, p.count);
      load_both(UnitSource(m, a.layer.hidden, p.band, p.begin), half, rings[0],
                UnitSource(m, a.layer.hidden, p.band, p.begin + half), p.count - half, rings[1]);
    } else {
      UnitSource down(m, a.layer.hidden, p.band, p.begin);
      for (int block = 0; block < p.count; ++block) down.load(rings[0]);
    }
  }
}

}  // namespace fairway::kernels::cuda
