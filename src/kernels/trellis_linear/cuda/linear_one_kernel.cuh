// The kernel of a linear layer of one row on 15-bit integers (codebook mul1), for clusters and bulk copies. One row
// leaves so little work in a CTA that what counts is the way of a value through it, so nothing here waits for more than
// it needs:
//
// - Every block of 128 inputs has a fixed point of its own: a warp makes its digits by itself, and the CTA meets once,
//   when all are there. The sums of a block become floats before the next one.
// - A warp has 16 of the 128 outputs and all inputs, so its sums are complete: lanes send them to the CTA of the
//   cluster that finishes the item, or leave them for the warp whose turn it is to finish one, and the others go on.
// - A digit lies in shared memory as the tensor instruction takes it, four times in a word, high and low ones side by
//   side.
#pragma once

#include "kernels/trellis_band/cuda/int_band.cuh"
#include "kernels/trellis_band/cuda/one_row_digits.cuh"
#include "kernels/trellis_linear/cuda/linear_kernel.cuh"
#include "kernels/trellis_linear/cuda/linear_read.cuh"

namespace fairway::kernels::cuda {

constexpr int kMostNormedBlocks = kMaxLinearNorm / kBand;
constexpr int kOneFirstBytes = 24 * 1024;  // of weights, asked for before the inputs

struct alignas(16) LinearOneShared {
  RingBarriers barriers;
  std::uint64_t sums_there;  // in a cluster: of all its CTAs
  std::uint64_t staged;      // the inputs of the first item have been read
  alignas(16) float sums[2][kBand];
  float squares[kMostNormedBlocks];  // of the inputs before a norm, by block of the row
};

// Dynamic shared memory: the ring, LinearOneShared, the digits and the unit of every block, in a cluster the sums of
// its CTAs, [split][kBand].
struct OneMemory {
  LinearOneShared& shared;
  unsigned char* blocks;
  float* gathered;

  __device__ OneMemory(const LinearArgs& a, unsigned char* memory)
      : shared(*reinterpret_cast<LinearOneShared*>(memory + a.ring_stages * a.stage_bytes)),
        blocks(reinterpret_cast<unsigned char*>(&shared + 1)),
        gathered(reinterpret_cast<float*>(blocks + a.input_stride)) {}
};

// The inputs of the share, a block a warp. scales: of the warp's first block.
__device__ __forceinline__ void stage_one(const LinearArgs& a, const LinearInput& in, InputScales& scales,
                                          const OneMemory& m) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int begin = in.share.begin * kBand + 4 * lane;
#pragma unroll 1
  for (int block = warp; block < in.share.count; block += kComputeWarps) {
    InputPart x;
    x.load(a, in, 0, begin + block * kBand);
    float v[4];
    scales.apply(x.v, v);
    if (block + kComputeWarps < in.share.count) scales.load(a, in.suh, begin + (block + kComputeWarps) * kBand);
    const float squares = warp_sum(x.squares);  // its steps hide among those of the transform
    hadamard128(v);
    unsigned char* const to = m.blocks + block * kOneBlockBytes;
    store_one_unit(to, v);
    if (lane == 0 && a.call.norm.x != nullptr) m.shared.squares[in.share.begin + block] = squares;
  }
}

// Blocks of the ring times their digits. Every lane gets sums of the warp's columns lane / 4 and lane / 4 + 8.
// leaves: the ring's stages are used again.
template <int kBits>
__device__ __forceinline__ void walk_one(RingCursor& ring, int blocks, bool leaves, const LanePlace& place,
                                         const OneMemory& m, float (&sums)[2]) {
  const LaneStream<kBits> stream(place);
  const unsigned char* block = m.blocks;
#pragma unroll 1
  for (; blocks > 0; --blocks, block += kOneBlockBytes) {
    int acc[2][4] = {};
    ring.wait_full();
    multiply_one_column<kBandTiles>(stream, ring.data(), kBandTiles * stream.kTileBytes, block + one_digits_place(),
                                    acc);
    if (leaves) ring.release();
    ring.advance();
    add_one_block(block, acc, sums);
  }
}

// What a lane's four outputs of an item are scaled by and added to.
struct OneFinish {
  uint2 svh;
  float bias[4], old[4];

  __device__ __forceinline__ void load(const LinearOutput& output, int column) {
    svh = *reinterpret_cast<const uint2*>(output.matrix.svh + column);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      bias[i] = output.bias != nullptr && column + i < output.out_exact ? output.bias[column + i] : 0.0f;
    }
  }
  // v: sums of four columns before the transform.
  __device__ __forceinline__ void store(const LinearPlaces& places, float (&v)[4], float factor) const {
    hadamard128(v);
    const float2 low = __half22float2(as_half2(svh.x)), high = __half22float2(as_half2(svh.y));
    v[0] = v[0] * factor * low.x + bias[0] + old[0];
    v[1] = v[1] * factor * low.y + bias[1] + old[1];
    v[2] = v[2] * factor * high.x + bias[2] + old[2];
    v[3] = v[3] * factor * high.y + bias[3] + old[3];
    places.store(0, v);
  }
};

// The factor of the row's norm, by a warp.
__device__ __forceinline__ float one_factor(const LinearArgs& a, const LinearOneShared& shared) {
  if (a.call.norm.x == nullptr) return 1.0f;
  float squares = 0;
#pragma unroll 1
  for (int i = threadIdx.x & 31; i < a.call.in / kBand; i += 32) squares += shared.squares[i];
  return norm_factor(a.call.norm, warp_sum(squares));
}

// The sums of a warp's columns, and by warp 0 the squares of the share, to the CTA of rank 0.
__device__ __forceinline__ void send_one(const LinearArgs& a, const LinearShare& share, int rank, const OneMemory& m,
                                         const float (&sums)[2]) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  if ((lane & 2) == 0) {
    send_to_cluster(m.gathered + rank * kBand + warp * 16 + (lane >> 2) + 8 * (lane & 1), &m.shared.sums_there, 0,
                    lane & 1 ? sums[1] : sums[0]);
  }
  if (a.call.norm.x != nullptr && warp == 0) {
#pragma unroll 1
    for (int i = share.begin + lane; i < share.begin + share.count; i += 32) {
      send_to_cluster(&m.shared.squares[i], &m.shared.sums_there, 0, m.shared.squares[i]);
    }
  }
}

__device__ __forceinline__ void load_one_items(const LinearArgs& a, RingCursor ring, LinearOneShared& shared) {
  const LinearShare share = linear_share(a, linear_rank(a));
  bool first = a.items > a.groups;
  for (int index = static_cast<int>(blockIdx.x) / a.split; index < a.items; index += a.groups) {
    const LinearItem item = get_linear_item(a, index);
    const LinearOutput& output = a.call.outputs[item.output];
    BlockLoader<0> loader(output.matrix, output.out, item.band, share.begin, item.count);
    int begin = 0;
    if (first) {
      // Many weights: a CTA's inputs would come after all that it has asked for.
      first = false;
      begin = min(max(kOneFirstBytes / a.stage_bytes, 1), share.count);
      loader.load(ring, 0, begin);
      barrier_wait(&shared.staged, 0);
    }
    loader.load(ring, begin, share.count);
  }
}

__device__ __forceinline__ void compute_one_items(const LinearArgs& a, RingCursor ring, const OneMemory& m) {
  const int rank = linear_rank(a), warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const LinearShare share = linear_share(a, rank);
  const bool leaves = a.items > a.groups || share.count > a.ring_stages;
  int index = static_cast<int>(blockIdx.x) / a.split;
  LinearItem item = get_linear_item(a, index);
  OneFinish finish;
  InputScales scales;
  if (warp == 0 && rank == 0) finish.load(a.call.outputs[item.output], item.band * kBand + 4 * lane);
  if (warp < share.count) {
    scales.load(a, a.call.outputs[item.output].matrix.suh, (share.begin + warp) * kBand + 4 * lane);
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  int staged_input = -1;
#pragma unroll 1
  for (int turn = 0;; ++turn) {
    const LinearOutput& output = a.call.outputs[item.output];
    const LinearPlaces places{output, item.band * kBand + 4 * lane};
    const bool finishes = rank == 0 && warp == (turn & (kComputeWarps - 1));
    if (finishes) places.load_old(0, finish.old);
    if (staged_input != a.input_of[item.output]) {
      if (staged_input >= 0 && warp < share.count) {
        scales.load(a, output.matrix.suh, (share.begin + warp) * kBand + 4 * lane);
      }
      staged_input = a.input_of[item.output];
      const bool stores_sum = item.output == 0 && item.band == 0;
      stage_one(a, {0, 1, share, output.matrix.suh, stores_sum}, scales, m);
      consumer_sync<kComputeThreads>();
      if (turn == 0 && threadIdx.x == 0) barrier_arrive(&m.shared.staged);
    }
    LanePlace place(output.matrix.bits, lane);
#pragma unroll
    for (int& offset : place.offset) offset += warp * 32 * output.matrix.bits;
    float sums[2] = {};
    switch (output.matrix.bits) {
#define FAIRWAY_CASE(bits)                                     \
  case bits:                                                   \
    walk_one<bits>(ring, share.count, leaves, place, m, sums); \
    break;
      FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
    }
    if (a.split > 1) {
      cluster_wait();  // the others have started
      send_one(a, share, rank, m, sums);
      if (finishes) {
        barrier_wait_cluster(&m.shared.sums_there, 0);
        float v[4] = {};
#pragma unroll 2
        for (int r = 0; r < a.split; ++r) {
          const float4 one = *reinterpret_cast<const float4*>(m.gathered + r * kBand + 4 * lane);
          v[0] += one.x;
          v[1] += one.y;
          v[2] += one.z;
          v[3] += one.w;
        }
        finish.store(places, v, one_factor(a, m.shared));
      }
      return;
    }
    float* const left = m.shared.sums[turn & 1];
    if ((lane & 2) == 0) left[warp * 16 + (lane >> 2) + 8 * (lane & 1)] = lane & 1 ? sums[1] : sums[0];
    consumer_sync<kComputeThreads>();
    if (finishes) {
      const float4 sum = *reinterpret_cast<const float4*>(left + 4 * lane);
      float v[4] = {sum.x, sum.y, sum.z, sum.w};
      finish.store(places, v, one_factor(a, m.shared));
    }
    index += a.groups;
    if (index >= a.items) return;
    item = get_linear_item(a, index);
    if (warp == ((turn + 1) & (kComputeWarps - 1))) {
      finish.load(a.call.outputs[item.output], item.band * kBand + 4 * lane);
    }
  }
}

__device__ __forceinline__ void run_linear_one(const LinearArgs& a) {
  unsigned char* const memory = dynamic_shared<unsigned char>();
  const OneMemory m(a, memory);
  if (threadIdx.x < 32) {
    if (threadIdx.x == 0) {
      barrier_init(&m.shared.sums_there, 1);
      barrier_init(&m.shared.staged, 1);
      if (a.split > 1 && linear_rank(a) == 0) {
        const int squares = a.call.norm.x != nullptr ? a.call.in / kBand : 0;
        barrier_init_fence();
        barrier_expect(&m.shared.sums_there, 4 * (a.split * kBand + squares));
      }
    }
    ring_init_by_lanes(&m.shared.barriers, a.ring_stages, kComputeWarps);
  }
  __syncthreads();
  if (a.split > 1) cluster_arrive();  // waited for before the first sums are sent
  const RingCursor ring{memory, &m.shared.barriers, a.ring_stages, a.stage_bytes};
  if (threadIdx.x >= kComputeThreads) {
    load_one_items(a, ring, m.shared);
    __syncwarp();
    if (a.split > 1) cluster_wait();
  } else {
    compute_one_items(a, ring, m);
  }
}

__global__ void __launch_bounds__(kBandThreads, 2) linear_one_kernel(const __grid_constant__ LinearArgs a) {
  if constexpr (kCodeHasClusters) {
    run_linear_one(a);
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
