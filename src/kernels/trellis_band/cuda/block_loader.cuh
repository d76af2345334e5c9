// The loading warp's run through blocks of one band of one matrix: a stage of the ring for each block. By bulk copies
// or, without them, by copies of 16 bytes, which all lanes share.
#pragma once

#include "kernels/trellis_band/cuda/band.cuh"
#include "kernels/trellis_band/cuda/ring.cuh"
#include "kernels/trellis_band/cuda/trellis_ref.cuh"
#include "kernels/trellis_band/cuda/walk_half.cuh"

namespace fairway::kernels::cuda {

// kTokens: of a stage, 0 if tokens are not streamed. Lane i copies tile row i of a block, and the inputs of the tokens
// i, i + 32, ... kTogether: the tokens' inputs of a block lie in memory as they do in a stage. That is one copy, where
// a copy for each token would take the loading warp longer than the computing ones take for their work.
// kOnce: nobody else reads the weights, see bulk_load_once().
template <int kTokens, bool kTogether = false, bool kOnce = false>
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
    const unsigned row = code_has_clusters() ? threadIdx.x & 31 : threadIdx.x % kBandTiles;
    words = m.words + (static_cast<std::size_t>(first_block) * kBandTiles + row) * row_bytes +
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
    if (!code_has_clusters()) {
      copy_rows_by_lanes<kBandTiles>(ring.data() + kStageTokenBytes, words, band_bytes);
      if (!kStreamsTokens) copy_async_arrive(ring.full());
      words += kBandTiles * row_bytes;
      return;
    }
    if constexpr (kOnce) {
      if (elected()) {
        barrier_expect(ring.full(), bytes);
        const unsigned char* from = words - (threadIdx.x & 31) * row_bytes;
        unsigned char* to = ring.data() + kStageTokenBytes;
#pragma unroll
        for (int row = 0; row < kBandTiles; ++row, to += band_bytes, from += row_bytes) {
          bulk_load_once(to, from, band_bytes, ring.full());
        }
      }
    } else {
      const int lane = threadIdx.x & 31;
      if (lane == 0) barrier_expect(ring.full(), bytes);
      __syncwarp();
      if (lane < kBandTiles) {
        bulk_load(ring.data() + kStageTokenBytes + lane * band_bytes, words, band_bytes, ring.full());
      }
    }
    words += kBandTiles * row_bytes;
  }

  __device__ __forceinline__ void load_tokens(const RingCursor& ring, int block) {
    const int lane = threadIdx.x & 31;
    if (!code_has_clusters()) {
      copy_tokens(ring.data(), block);
      copy_async_arrive(ring.full());
      return;
    }
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

  // load_tokens() without bulk copies.
  __device__ __forceinline__ void copy_tokens(unsigned char* to, int block) {
    const int lane = threadIdx.x & 31;
    if constexpr (kTogether) {
      const unsigned char* const from = token_block + block * token_block_bytes;
#pragma unroll 1
      for (int at = 16 * lane; at < tokens * kTokenRowBytes; at += 16 * 32) copy_async_16(to + at, from + at, false);
    } else {
      static_assert(kLaneTokens <= 1);
      constexpr int kPieces = 2 * kBand / 16;  // of a token
#pragma unroll 1
      for (int first = 0; first < tokens; first += 32 / kPieces) {
        const int token = first + lane / kPieces, at = lane % kPieces * 16;
        const auto row = __shfl_sync(0xFFFFFFFFu, reinterpret_cast<unsigned long long>(token_rows[0]), token);
        const auto* const from = reinterpret_cast<const unsigned char*>(row) + block * (2 * kBand) + at;
        if (token < tokens) copy_async_16(to + token * kTokenRowBytes + at, from, false);
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
