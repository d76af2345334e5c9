// The loading warp of the stream kernel.
#pragma once

#include "kernels/moe_swiglu/cuda/ring.cuh"
#include "kernels/moe_swiglu/cuda/stream_args.cuh"

namespace fairway::kernels::cuda {

__device__ __forceinline__ void load_unit(RingCursor& ring, const unsigned char* words, int band_bytes) {
  const int lane = threadIdx.x & 31;
  ring.wait_empty();
  if (lane == 0) barrier_expect(ring.full(), kBandTiles * band_bytes);
  __syncwarp();
  if (lane < kBandTiles) bulk_load(ring.data() + lane * band_bytes, words, band_bytes, ring.full());
  ring.advance();
}

// One lane's reading position in a matrix.
struct UnitSource {
  const unsigned char* words;
  std::size_t block_bytes;
  int band_bytes;

  __device__ UnitSource(const TrellisRef& m, int out, const Piece& p)
      : block_bytes(std::size_t{2 * kBandTiles} * static_cast<unsigned>(out * m.bits)), band_bytes(2 * kBand * m.bits) {
    const int row = p.begin * kBandTiles + static_cast<int>(threadIdx.x & (kBandTiles - 1));
    words = m.words + block_bytes / kBandTiles * static_cast<unsigned>(row) +
            static_cast<std::size_t>(p.band) * static_cast<unsigned>(band_bytes);
  }
  __device__ void load(RingCursor& ring) {
    load_unit(ring, words, band_bytes);
    words += block_bytes;
  }
};

// The vectors that the second phase will scale with, so that they wait in the L2 cache.
__device__ inline void prefetch_scales(const StreamArgs& a, const StreamTable& t, const Run& run) {
  constexpr int kLine = 64;  // halves
  Piece p;
  for (int at = run.begin, before = -1; next_piece(t, a.layer.hidden / kBand, true, run.end, at, p);) {
    const StreamSegment& s = t.segments[p.segment];
    const ExpertRef& e = a.layer.experts[s.expert];
    const int lane = threadIdx.x & 31;
    if (lane < kBand / kLine) prefetch_l2(e.down.svh + p.band * kBand + lane * kLine);
    if (p.segment == before) continue;
    before = p.segment;
    for (int i = lane * kLine; i < s.bands * kBand; i += 32 * kLine) {
      prefetch_l2(e.gate.svh + i);
      prefetch_l2(e.up.svh + i);
      prefetch_l2(e.down.suh + i);
    }
  }
}

// Gate and up: block by block for two teams, one after the other for one.
template <class Shape>
__device__ inline void load_gate_up(UnitSource gate, UnitSource up, int blocks, RingCursor& ring) {
  if constexpr (Shape::kTeams == 2) {
    for (int block = 0; block < blocks; ++block) {
      gate.load(ring);
      up.load(ring);
    }
  } else {
    for (int block = 0; block < blocks; ++block) gate.load(ring);
    for (int block = 0; block < blocks; ++block) up.load(ring);
  }
}

// The loading warp: the units of both phases, as far as the ring has room; the barrier is none of its business.
template <class Shape>
__device__ inline void load_run(const StreamArgs& a, const StreamTable& t, const Run& run, RingCursor ring) {
  const int hidden_blocks = a.layer.hidden / kBand;
  Piece p;
  for (int at = run.begin; next_piece(t, hidden_blocks, false, run.end, at, p);) {
    const StreamSegment& s = t.segments[p.segment];
    const ExpertRef& e = a.layer.experts[s.expert];
    load_gate_up<Shape>(UnitSource(e.gate, s.bands * kBand, p), UnitSource(e.up, s.bands * kBand, p), p.count, ring);
  }
  prefetch_scales(a, t, run);
  p = {};
  for (int at = run.begin; next_piece(t, hidden_blocks, true, run.end, at, p);) {
    UnitSource down(a.layer.experts[t.segments[p.segment].expert].down, a.layer.hidden, p);
    for (int block = 0; block < p.count; ++block) down.load(ring);
  }
}

}  // namespace fairway::kernels::cuda
