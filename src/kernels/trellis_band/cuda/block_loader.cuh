// The loading warp's run through blocks of one band of one matrix: a stage of the ring for each block.
#pragma once

#include "kernels/trellis_band/cuda/band.cuh"
#include "kernels/trellis_band/cuda/ring.cuh"
#include "kernels/trellis_band/cuda/trellis_ref.cuh"
#include "kernels/trellis_band/cuda/walk_half.cuh"

namespace fairway::kernels::cuda {

// kTokens: of a stage, 0 if tokens are not streamed. Lane i copies tile row i of a block, and the inputs of the tokens
// i, i + 32, ... kTogether: the tokens' inputs of a block lie in memory as they do in a stage. That is one copy, where
// a copy for each token would take the loading warp longer than the computing ones take for their work.
template <int kTokens, bool kTogether = false>
struct BlockLoader {
  static constexpr bool kStreamsTokens = kTokens > 0;
  static constexpr int kLaneTokens = (kTokens + 31) / 32;
  static constexpr int kStageTokenBytes = kTokens * kTokenRowBytes;

  std::size_t row_bytes;
  int band_bytes;  // of one tile row
  const unsigned char* words;
  int tokens;
  const __half* token_rows[kLaneTokens == 0 ? 1 : kLaneTokens] = {};  // this lane's, at the next block
  const unsigned char* token_block = nullptr;                         // kTogether: of the first block
  std::size_t token_block_bytes = 0;                                  // from one to the next
  int bytes;                                                          // of a stage

  // out: columns of the matrix.
  __device__ BlockLoader(const TrellisRef& m, int out, int band, int first_block, int token_count)
      : row_bytes(static_cast<std::size_t>(2 * out) * m.bits), band_bytes(2 * kBand * m.bits), tokens(token_count) {
    words = m.words + (static_cast<std::size_t>(first_block) * kBandTiles + (threadIdx.x & 31)) * row_bytes +
            static_cast<std::size_t>(band) * band_bytes;
    bytes = kBandTiles * band_bytes + (kStreamsTokens ? tokens * (kTogether ? kTokenRowBytes : 2 * kBand) : 0);
  }

  // row_of(token): its inputs, transformed, from the first block on.
  template <class RowOf>
  __device__ __forceinline__ void set_tokens(const RowOf& row_of) {
    const int lane = threadIdx.x & 31;
    for (int i = 0; i < kLaneTokens; ++i) {
      if (lane + 32 * i >= tokens) break;
      token_rows[i] = row_of(lane + 32 * i);
    }
  }

  __device__ __forceinline__ void set_token_blocks(const unsigned char* first, std::size_t from_one_to_next) {
    token_block = first;
    token_block_bytes = from_one_to_next;
  }

  // The weights of the next block into a stage that is empty. The stage is full when its tokens are there too.
  __device__ __forceinline__ void load_weights(const RingCursor& ring) {
    const int lane = threadIdx.x & 31;
    if (lane == 0) barrier_expect(ring.full(), bytes);
    __syncwarp();
    if (lane < kBandTiles)
      bulk_load(ring.data() + kStageTokenBytes + lane * band_bytes, words, band_bytes, ring.full());
    words += kBandTiles * row_bytes;
  }

  __device__ __forceinline__ void load_tokens(const RingCursor& ring, int block) {
    const int lane = threadIdx.x & 31;
    if constexpr (kTogether) {
      if (lane == 0) {
        bulk_load(ring.data(), token_block + block * token_block_bytes, tokens * kTokenRowBytes, ring.full());
      }
    } else {
      for (int i = 0; i < kLaneTokens; ++i) {
        if (lane + 32 * i >= tokens) break;
        bulk_load(ring.data() + (lane + 32 * i) * kTokenRowBytes, token_rows[i] + block * kBand, 2 * kBand,
                  ring.full());
      }
    }
  }

  __device__ __forceinline__ void load(RingCursor& ring, int first, int end) {
    for (int block = first; block < end; ++block) {
      ring.wait_empty();
      load_weights(ring);
      if constexpr (kStreamsTokens) load_tokens(ring, block);
      ring.advance();
    }
  }
};

}  // namespace fairway::kernels::cuda
