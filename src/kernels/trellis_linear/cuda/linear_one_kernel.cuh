// The kernel of a linear layer of one row on 15-bit integers (codebook mul1), for clusters and bulk copies. One row
// leaves so little work in a CTA that what counts is the way of a value through it, so nothing here waits for more than
// it needs:
//
// - Every block of 128 inputs has a fixed point of its own: a warp makes its digits by itself, and the CTA meets once,
//   when all are there. The sums of a block become floats before the next one.
// - A warp has 16 of the 128 outputs and all inputs, so its sums are complete: lanes send them to the CTA of the
//   cluster that finishes the item, or leave them for the warp whose turn it is to finish one, and the others go on.
// - A call whose clusters have an item each is the usual one, and has an instance without what others need: less code
//   and 61 registers instead of 79. All such calls of a layer run the same instance: with one of its own for q_b_proj
//   alone, whose code then came cold, a step of GLM-4.7-Flash took 4 % longer.
// - A digit lies in shared memory as the tensor instruction takes it, four times in a word, high and low ones side by
//   side.
#pragma once

#include "kernels/common/cuda/hidden.cuh"
#include "kernels/trellis_band/cuda/block_loader.cuh"
#include "kernels/trellis_linear/cuda/linear_one_finish.cuh"
#include "kernels/trellis_linear/cuda/linear_one_stage.cuh"

namespace fairway::kernels::cuda {

constexpr int kOneFirstBytes = 24 * 1024;  // of weights, asked for before the inputs

// Blocks of the ring times their digits. Every lane gets sums of the warp's columns lane / 4 and lane / 4 + 8.
// leaves: the ring's stages are used again.
template <int kBits>
__device__ __forceinline__ void walk_one(RingCursor& ring, int blocks, bool leaves, const LanePlace& place,
                                         const OneMemory& m, float (&sums)[1][2]) {
  const LaneStream<kBits> stream(place);
  const unsigned char* block = m.blocks;
  const int digits = one_digits_place();
#pragma unroll 1
  for (; blocks > 0; --blocks, block += kOneBlockBytes) {
    int acc[2][4] = {};
    ring.wait_full();
    multiply_one_column<kBandTiles>(stream, ring.data(), kBandTiles * stream.kTileBytes, block + digits, acc);
    if (leaves) ring.release();
    ring.advance();
    const float rest = add_one_block(block, acc, sums);
    sums[0][0] += rest;
    sums[0][1] += rest;
  }
}

// All threads of the CTA, when its barriers are initialised.
__device__ __forceinline__ void meet_one(const LinearArgs& a) {
  __syncthreads();
  if (a.split > 1) cluster_arrive();  // waited for before the first sums are sent
}

using OneLoader = BlockLoader<0, false, true>;

__device__ __forceinline__ OneLoader loader_of(const LinearArgs& a, const LinearShare& share, int index) {
  const LinearItem item = get_linear_item(a, index);
  const LinearOutput& output = a.call.outputs[item.output];
  return {output.matrix, output.out, item.band, share.begin, item.count};
}

// As BlockLoader::load(), in a loop of less code: few blocks come here. Not as fast as it can: these weights are asked
// for beside the kernel ahead, which waits for memory more than this one.
__device__ __forceinline__ void load_blocks(OneLoader& loader, RingCursor& ring, int count) {
#pragma unroll 1
  for (; count > 0; --count) {
    ring.wait_empty();
    loader.load_weights(ring);
    ring.advance();
    pause_nanoseconds(60);
  }
}

// By the loading warp. kSingle: an item for each cluster, whose weights all fit into the ring.
template <bool kSingle>
__device__ __forceinline__ void load_one_items(const LinearArgs& a, RingCursor ring, std::uint64_t* staged) {
  const LinearShare share = linear_share(a, static_cast<int>(blockIdx.x));
  int index = static_cast<int>(blockIdx.y), begin = 0;
  OneLoader loader = loader_of(a, share, index);
  meet_one(a);
  if (!kSingle && a.items > a.groups) {
    // Many weights: a CTA's inputs would come after all that it has asked for.
    begin = min(max(kOneFirstBytes / a.stage_bytes, 1), share.count);
    load_blocks(loader, ring, begin);
    barrier_wait(staged, 0);
  }
#pragma unroll 1
  while (true) {
    load_blocks(loader, ring, share.count - begin);
    index += a.groups;
    if (kSingle || index >= a.items) break;
    begin = 0;
    loader = loader_of(a, share, index);
  }
  __syncwarp();
  if (kSingle || a.split > 1) cluster_wait();
}

// Where a lane of a warp reads the tiles of the warp's columns. Computed here: else the compiler would do it where the
// warp's inputs have come.
__device__ __forceinline__ LanePlace place_one(int bits) {
  LanePlace place(bits, static_cast<int>(threadIdx.x) & 31);
#pragma unroll
  for (int& offset : place.offset) offset = hidden(offset + static_cast<int>(threadIdx.x >> 5) * 32 * bits);
  place.select = static_cast<u32>(hidden(static_cast<int>(place.select)));
  place.drop = hidden(place.drop);
  return place;
}

template <bool kSingle>
__device__ __forceinline__ void compute_one_items(const LinearArgs& a, RingCursor ring, const OneMemory& m) {
  const int rank = static_cast<int>(blockIdx.x), warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const LinearShare share = linear_share(a, rank);
  const bool leaves = !kSingle && (a.items > a.groups || share.count > a.ring_stages);
  int index = static_cast<int>(blockIdx.y);
  LinearItem item = get_linear_item(a, index);
  // Warps finish items in turn, first the one that has the least to do before.
  const auto is_finisher = [&](int turn) { return rank == 0 && ((turn + warp + 1) & (kComputeWarps - 1)) == 0; };
  InputScales scales;
  OneInput x;
  const int k = (share.begin + warp) * kBand + 4 * lane;
  if (warp < share.count) scales.load(a, a.call.outputs[item.output].matrix.suh, k);
  uint2 svh = {};
  if (is_finisher(0)) svh = OneFinish::scales(a.call.outputs[item.output], item.band * kBand + 4 * lane);
  LanePlace place = place_one(a.call.outputs[item.output].matrix.bits);
  if (kSingle || a.split > 1) cluster_wait();  // the others have started
  wait_for_previous_kernel();
  if (warp < share.count) x.load(a, k);  // before all else that can be done now
  bool stages = true;
#pragma unroll 1
  for (int turn = 0;; ++turn) {
    const LinearOutput& output = a.call.outputs[item.output];
    const bool finishes = is_finisher(turn);
    if (stages) {
      const bool stores_sum = item.output == 0 && item.band == 0;
      stage_one(a, {0, 1, share, output.matrix.suh, stores_sum}, turn == 0, x, scales, m);
      consumer_sync<kComputeThreads>();
      if (turn == 0) {
        // Not before: what the next kernel does first would take its time from this one's inputs.
        let_next_kernel_start();
        if (threadIdx.x == 0) barrier_arrive(&m.shared.staged);
      }
    }
    float one_column[1][2] = {};
    const float(&sums)[2] = one_column[0];
    switch (output.matrix.bits) {
#define FAIRWAY_CASE(bits)                                           \
  case bits:                                                         \
    walk_one<bits>(ring, share.count, leaves, place, m, one_column); \
    break;
      FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
    }
    float v[4];
    if (kSingle || a.split > 1) {
      if ((lane & 2) == 0) {
        send_to_cluster(m.gathered + rank * kBand + place_of_sum(), &m.shared.sums_there, 0,
                        lane & 1 ? sums[1] : sums[0]);
      }
      if (finishes) {
        const OneFinish finish(output, item.band * kBand + 4 * lane, svh);  // comes while the others still send
        barrier_wait_cluster(&m.shared.sums_there, 0);
        add_gathered(m.gathered, a.split, v);
        finish.store(a, m.shared.squares, v);
      }
      return;
    }
    float* const left = m.shared.sums[turn & 1];
    if ((lane & 2) == 0) left[place_of_sum()] = lane & 1 ? sums[1] : sums[0];
    consumer_sync<kComputeThreads>();
    if (finishes) {
      const OneFinish finish(output, item.band * kBand + 4 * lane, svh);
      const float4 sum = *reinterpret_cast<const float4*>(left + 4 * lane);
      v[0] = sum.x, v[1] = sum.y, v[2] = sum.z, v[3] = sum.w;
      finish.store(a, m.shared.squares, v);
    }
    index += a.groups;
    if (index >= a.items) return;
    const int input = a.input_of[item.output];
    item = get_linear_item(a, index);
    stages = a.input_of[item.output] != input;
    place = place_one(a.call.outputs[item.output].matrix.bits);
    if (is_finisher(turn + 1)) svh = OneFinish::scales(a.call.outputs[item.output], item.band * kBand + 4 * lane);
  }
}

// The grid: the CTAs of a cluster along x, groups along y.
template <bool kSingle>
__device__ __forceinline__ void run_linear_one(const LinearArgs& a) {
  unsigned char* const memory = dynamic_shared<unsigned char>();
  const OneMemory m(a, memory);
  const RingCursor ring{memory, &m.shared.barriers, a.ring_stages, a.stage_bytes};
  ring_init_by_warps(&m.shared.barriers, a.ring_stages, kComputeWarps, 1, kBandThreads / 32);
  if (threadIdx.x >= kComputeThreads) {
    load_one_items<kSingle>(a, ring, &m.shared.staged);
    return;
  }
  if (threadIdx.x == 0) {
    barrier_init(&m.shared.sums_there, 1);
    barrier_init(&m.shared.staged, 1);
    barrier_init_fence();
    if (a.split > 1 && blockIdx.x == 0) {
      const int squares = a.call.norm.x != nullptr ? a.call.in / kBand : 0;
      barrier_expect(&m.shared.sums_there, 4 * (a.split * kBand + squares));
    }
  }
  meet_one(a);
  compute_one_items<kSingle>(a, ring, m);
}

template <bool kSingle>
__global__ void __launch_bounds__(kBandThreads, 2) linear_one_kernel(const __grid_constant__ LinearArgs a) {
  if constexpr (kCodeHasClusters) {
    run_linear_one<kSingle>(a);
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
