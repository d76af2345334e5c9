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

// Four inputs of a lane as they are read. Nothing is computed until take(): what a warp has to do anyhow is done while
// they come.
struct OneInput {
  float4 x, add;  // of a norm in front
  uint2 halves;   // without one

  __device__ __forceinline__ void load(const LinearArgs& a, int k) {
    const LinearNorm& norm = a.call.norm;
    x = add = make_float4(0, 0, 0, 0);
    if (norm.x == nullptr) {
      halves = *reinterpret_cast<const uint2*>(a.call.x + k);
    } else if (k < norm.n) {
      x = *reinterpret_cast<const float4*>(norm.x + k);
      if (norm.add != nullptr) add = *reinterpret_cast<const float4*>(norm.add + k);
    }
  }
  // Returns the squares before the norm. stores_sum: LinearNorm::sum of these is this CTA's to store.
  __device__ __forceinline__ float take(const LinearArgs& a, bool stores_sum, int k, float (&v)[4]) const {
    if (a.call.norm.x == nullptr) {
      const float2 low = __half22float2(as_half2(halves.x)), high = __half22float2(as_half2(halves.y));
      v[0] = low.x, v[1] = low.y, v[2] = high.x, v[3] = high.y;
      return 0;
    }
    v[0] = x.x + add.x, v[1] = x.y + add.y, v[2] = x.z + add.z, v[3] = x.w + add.w;
    const float4 sum = make_float4(v[0], v[1], v[2], v[3]);
    if (stores_sum) store_norm_sum(a.call.norm, 0, k, sum);
    return add_squares(0.0f, sum);
  }
};

// The inputs of the share, a block a warp. read: x and scales are those of the warp's first block.
__device__ __forceinline__ void stage_one(const LinearArgs& a, const LinearInput& in, bool read, OneInput& x,
                                          InputScales& scales, const OneMemory& m) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
#pragma unroll 1
  for (int block = warp; block < in.share.count; block += kComputeWarps) {
    const int k = (in.share.begin + block) * kBand + 4 * lane;
    if (!read) {
      scales.load(a, in.suh, k);
      x.load(a, k);
    }
    read = false;
    float part[4], v[4];
    float squares = x.take(a, in.stores_sum, k, part);
    scales.apply(part, v);
    hadamard128_and_sum(v, squares);
    store_one_unit(m.blocks + block * kOneBlockBytes, v);
    if (lane == 0 && a.call.norm.x != nullptr) {
      float* const to = &m.shared.squares[in.share.begin + block];
      if (a.split > 1) {
        send_to_cluster(to, &m.shared.sums_there, 0, squares);
      } else {
        *to = squares;
      }
    }
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

// A lane's four outputs of an item: where they go, what they are scaled by and added to.
struct OneFinish {
  float* y;
  int columns;   // that are written
  bool vectors;  // all four, aligned to 16 bytes
  bool adds;     // to what is there
  uint2 svh;
  float old[4];

  // What the kernel in front does not write.
  __device__ __forceinline__ void load(const LinearOutput& output, int column) {
    svh = *reinterpret_cast<const uint2*>(output.matrix.svh + column);
    y = output.y + column;
    columns = output.out_exact - column;
    vectors = columns >= 4 && (reinterpret_cast<std::size_t>(y) & 15) == 0;
    adds = output.add;
#pragma unroll
    for (float& v : old) v = 0;
    if (output.bias != nullptr) add(output.bias + column);
  }
  __device__ __forceinline__ void add(const float* values) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < columns) old[i] += values[i];
    }
  }
  __device__ __forceinline__ void load_old() {
    if (!adds) return;
    if (vectors) {
      const float4 v = *reinterpret_cast<const float4*>(y);
      old[0] += v.x;
      old[1] += v.y;
      old[2] += v.z;
      old[3] += v.w;
    } else {
      add(y);
    }
  }
  // v: sums of four columns before the transform.
  __device__ __forceinline__ void store(const LinearArgs& a, const LinearOneShared& shared, float (&v)[4]) const {
    float squares = 0, factor = 1.0f;
    const bool norms = a.call.norm.x != nullptr;
    if (norms) {
#pragma unroll 1
      for (int i = threadIdx.x & 31; i < a.call.in / kBand; i += 32) squares += shared.squares[i];
    }
    hadamard128_and_sum(v, squares);
    if (norms) factor = norm_factor(a.call.norm, squares);
    const float2 low = __half22float2(as_half2(svh.x)), high = __half22float2(as_half2(svh.y));
    v[0] = fmaf(v[0] * factor, low.x, old[0]);
    v[1] = fmaf(v[1] * factor, low.y, old[1]);
    v[2] = fmaf(v[2] * factor, high.x, old[2]);
    v[3] = fmaf(v[3] * factor, high.y, old[3]);
    if (vectors) {
      *reinterpret_cast<float4*>(y) = make_float4(v[0], v[1], v[2], v[3]);
      return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < columns) y[i] = v[i];
    }
  }
};

// The sums of a warp's columns to the CTA of rank 0.
__device__ __forceinline__ void send_one(int rank, const OneMemory& m, const float (&sums)[2]) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  if ((lane & 2) != 0) return;
  send_to_cluster(m.gathered + rank * kBand + warp * 16 + (lane >> 2) + 8 * (lane & 1), &m.shared.sums_there, 0,
                  lane & 1 ? sums[1] : sums[0]);
}

// The sums of all CTAs of the cluster, of a lane's four columns: read at once, a loop would wait for each of them.
__device__ __forceinline__ void add_gathered(const float* gathered, int split, float (&v)[4]) {
  const int lane = threadIdx.x & 31;
  float4 one[kMaxShares];
#pragma unroll
  for (int r = 0; r < kMaxShares; ++r) {
    one[r] = make_float4(0, 0, 0, 0);
    if (r < split) one[r] = *reinterpret_cast<const float4*>(gathered + r * kBand + 4 * lane);
  }
  v[0] = v[1] = v[2] = v[3] = 0;
#pragma unroll
  for (int r = 0; r < kMaxShares; ++r) {
    v[0] += one[r].x;
    v[1] += one[r].y;
    v[2] += one[r].z;
    v[3] += one[r].w;
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

__device__ __forceinline__ void compute_one_items(const LinearArgs& a, RingCursor ring, const OneMemory& m) {
  const int rank = linear_rank(a), warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const LinearShare share = linear_share(a, rank);
  const bool leaves = a.items > a.groups || share.count > a.ring_stages;
  int index = static_cast<int>(blockIdx.x) / a.split;
  LinearItem item = get_linear_item(a, index);
  // Warps finish items in turn, first the one that has the least to do before.
  const auto is_finisher = [&](int turn) { return rank == 0 && ((turn + warp + 1) & (kComputeWarps - 1)) == 0; };
  OneFinish finish;
  InputScales scales;
  OneInput x;
  const int k = (share.begin + warp) * kBand + 4 * lane;
  if (warp < share.count) scales.load(a, a.call.outputs[item.output].matrix.suh, k);
  if (is_finisher(0)) finish.load(a.call.outputs[item.output], item.band * kBand + 4 * lane);
  LanePlace place = place_one(a.call.outputs[item.output].matrix.bits);
  if (a.split > 1) cluster_wait();  // the others have started
  wait_for_previous_kernel();
  if (warp < share.count) x.load(a, k);  // before all else that can be done now
  bool stages = true;
#pragma unroll 1
  for (int turn = 0;; ++turn) {
    const LinearOutput& output = a.call.outputs[item.output];
    const bool finishes = is_finisher(turn);
    if (finishes) finish.load_old();
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
    float sums[2] = {};
    switch (output.matrix.bits) {
#define FAIRWAY_CASE(bits)                                     \
  case bits:                                                   \
    walk_one<bits>(ring, share.count, leaves, place, m, sums); \
    break;
      FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
    }
    float v[4];
    if (a.split > 1) {
      send_one(rank, m, sums);
      if (finishes) {
        barrier_wait_cluster(&m.shared.sums_there, 0);
        add_gathered(m.gathered, a.split, v);
        finish.store(a, m.shared, v);
      }
      return;
    }
    float* const left = m.shared.sums[turn & 1];
    if ((lane & 2) == 0) left[warp * 16 + (lane >> 2) + 8 * (lane & 1)] = lane & 1 ? sums[1] : sums[0];
    consumer_sync<kComputeThreads>();
    if (finishes) {
      const float4 sum = *reinterpret_cast<const float4*>(left + 4 * lane);
      v[0] = sum.x, v[1] = sum.y, v[2] = sum.z, v[3] = sum.w;
      finish.store(a, m.shared, v);
    }
    index += a.groups;
    if (index >= a.items) return;
    const int input = a.input_of[item.output];
    item = get_linear_item(a, index);
    stages = a.input_of[item.output] != input;
    place = place_one(a.call.outputs[item.output].matrix.bits);
    if (is_finisher(turn + 1)) finish.load(a.call.outputs[item.output], item.band * kBand + 4 * lane);
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
