// The single kernel computes a call of one token in one launch. A slot is a token of its own expert here, so no weight
// serves two of them and there is nothing to sort.
//
// Work is cut into units. A unit is 128 inputs and 128 intermediate numbers of one slot in gate and up, and the same
// 128 intermediate numbers and 128 outputs in down, so that both have as many: bands of the intermediate size times
// blocks of the hidden size. A CTA has one run of units for both phases. What it multiplies in the second one are then
// the one or two bands whose sums it has itself begun in the first, and for their other parts it waits for its
// neighbours alone. The price are more partial sums at the end: one row of 128 for every unit.
//
// 32 warps on an SM, each a column of tiles: eight warps share the tiles of a 128 x 128 block, four groups of eight
// have a ring of their own each and take the blocks in turn. Every block's inputs have a scale of their own, so a block
// is done in one go and the code for it is the same in both phases.
#pragma once

#include "kernels/moe_swiglu/cuda/band_args.cuh"
#include "kernels/moe_swiglu/cuda/stream_sync.cuh"
#include "kernels/trellis_band/cuda/ring.cuh"

namespace fairway::kernels::cuda {

constexpr int kSingleGroups = 4;
constexpr int kSingleGroupWarps = 8;
constexpr int kSingleWarps = kSingleGroups * kSingleGroupWarps;
constexpr int kSingleThreads = 32 * kSingleWarps;
constexpr int kSingleSlots = 32;        // at most: a lane has one
constexpr int kSingleSpan = 9;          // CTAs that share a band, at most
constexpr int kDigitBytes = 8 * kBand;  // of a block: two digits of an input, four times each
constexpr int kMostSingleCtas = 256;    // of a launch
constexpr int kSinglePair = 2 * kBand;  // sums of gate and of up of a band

// Division by a number that many divide by: of n with (n + 1) * value below 2^32, which all counts here are.
struct Divisor {
  int value;
  unsigned factor;  // (2^32 - 1) / value

  Divisor() = default;
  __host__ __device__ explicit Divisor(int v) : value(v), factor(0xFFFFFFFFu / static_cast<unsigned>(v)) {}
  __device__ __forceinline__ int quotient(int n) const {
    return static_cast<int>(__umulhi(static_cast<unsigned>(n) + 1, factor));
  }
};

// Offsets from the start of a CTA's shared memory.
struct SingleLayout {
  int head;         // SingleShared
  int facts;        // int [experts]: bands << 12 and the bits of gate, up and down, 4 binary places each
  int pieces;       // SinglePiece [pieces]
  int places;       // int [units]: piece << 16 | block
  int blocks;       // SingleWork [3 units]
  int scales;       // float2 [digit blocks]: what a sum of n * digit is multiplied with, what is added
  int sums;         // float [pieces][gate, up][even, odd unit][kBand]
  int row;          // float [hidden]: the token; until gate and up are done, as are
  int digits;       // the inputs' digits
  int arrived;      // float [2][kSingleSpan][kSinglePair]: in their place afterwards, sums from other CTAs
  int down_digits;  // [pieces][kDigitBytes]
  int bytes;
};

struct SingleArgs {
  MoeLayer layer;
  MoeCall call;
  int slots;
  Divisor hidden_blocks;
  Divisor parts;   // warps that add up the bands of one slot
  float* partial;  // [units][kBand]
  int matrices;    // inputs of a unit of gate and up: one, or one each
  int digit_blocks;
  int ring_stages;  // of each group
  int stage_bytes;
  SingleLayout at;
};

// What a warp needs to know of a block: bits | input << 4, and where its sums go, floats from a.partial if down, else
// from the start of the CTA's memory.
struct SingleWork {
  int facts, to;
};

struct SingleSlot {
  int expert, bits, first_band, bands;
};

// What a run has of one band: `count` units from its unit `first` on.
struct SinglePiece {
  int slot, band, first, count;
};

// unit = band of all slots * blocks of the hidden size + block. A run is units begin .. begin + count - 1, all but the
// last run are `length` long.
struct SingleRun {
  Divisor length;
  int begin, count, pieces;
};

struct alignas(16) SingleShared {
  std::uint64_t full[kSingleGroups][kMaxStages], empty[kSingleGroups][kMaxStages];
  unsigned launch;  // its number
  SingleRun run;
  SingleSlot slots[kSingleSlots];
};

// Sums of gate and up on their way from CTA to CTA, of its first and of its last piece: as in stream_sync.cuh, in
// memory of the module, so that a tag cannot be there by chance.
static __device__ unsigned long long single_exchange[kMostSingleCtas][2][kSinglePair];

struct SingleMemory {
  unsigned char* base;
  const SingleArgs& a;

  template <class T>
  __device__ __forceinline__ T* get(int offset) const {
    return reinterpret_cast<T*>(base + offset);
  }
  __device__ __forceinline__ SingleShared& head() const { return *get<SingleShared>(a.at.head); }
  __device__ __forceinline__ int* facts() const { return get<int>(a.at.facts); }
  __device__ __forceinline__ SinglePiece* pieces() const { return get<SinglePiece>(a.at.pieces); }
  __device__ __forceinline__ int* places() const { return get<int>(a.at.places); }
  __device__ __forceinline__ SingleWork* works() const { return get<SingleWork>(a.at.blocks); }
  __device__ __forceinline__ float2* scales() const { return get<float2>(a.at.scales); }
  __device__ __forceinline__ float* row() const { return get<float>(a.at.row); }
  __device__ __forceinline__ float* arrived(int end, int cta) const {
    return get<float>(a.at.arrived) + (end * kSingleSpan + cta) * kSinglePair;
  }
  // i: of gate and up, the input of a unit; of down, digit_blocks + piece.
  __device__ __forceinline__ unsigned char* digits(int i) const {
    return i < a.digit_blocks ? base + a.at.digits + i * kDigitBytes
                              : base + a.at.down_digits + (i - a.digit_blocks) * kDigitBytes;
  }
  __device__ __forceinline__ float* sums(int piece, int matrix, int odd) const {
    return get<float>(a.at.sums) + ((piece * 2 + matrix) * 2 + odd) * kBand;
  }
  __device__ __forceinline__ unsigned char* stage(int group, int index) const {
    return base + (group * a.ring_stages + index) * a.stage_bytes;
  }
};

// What is the same whatever the routes are. Before the wait for the previous kernel.
__device__ inline void single_start(const SingleArgs& a, const SingleMemory& m) {
  if (threadIdx.x < kSingleGroups) {
#pragma unroll 1
    for (int i = 0; i < a.ring_stages; ++i) {
      barrier_init(&m.head().full[threadIdx.x][i], 1);
      barrier_init(&m.head().empty[threadIdx.x][i], kSingleGroupWarps);
    }
    barrier_init_fence();
  }
#pragma unroll 1
  for (int i = threadIdx.x; i < a.layer.routed + a.layer.shared; i += kSingleThreads) {
    const ExpertRef& e = a.layer.experts[i];  // all of its sectors, which then are near for those who load weights
    m.facts()[i] = e.intermediate / kBand << 12 | e.gate.bits | e.up.bits << 4 | e.down.bits << 8;
  }
  if (a.layer.common_suh != nullptr) {
    constexpr int kLine = 64;  // halves
#pragma unroll 1
    for (int i = threadIdx.x; i < a.layer.hidden / kLine; i += kSingleThreads) {
      prefetch_line(a.layer.common_suh + kLine * i);
    }
  }
}

// Sums over the lanes up to this one.
__device__ __forceinline__ int single_sum_of_lanes(int own) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  int sum = own;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const int before = __shfl_sync(0xFFFFFFFFu, sum, lane - d);
    if (lane >= d) sum += before;
  }
  return sum;
}

// The expert of a slot, or -1.
__device__ __forceinline__ int single_expert(const SingleArgs& a, int slot) {
  if (slot >= a.slots) return -1;
  if (slot >= a.layer.top_k) return a.layer.routed + slot - a.layer.top_k;
  const int id = a.call.ids[slot];
  return id >= 0 && id < a.layer.routed ? id : -1;
}

// One warp: the slots and the run of CTA `index`.
__device__ inline void single_table(const SingleArgs& a, const SingleMemory& m, int index) {
  const int lane = static_cast<int>(threadIdx.x & 31), hidden_blocks = a.hidden_blocks.value;
  const int expert = single_expert(a, lane);
  const int facts = expert < 0 ? 0 : m.facts()[expert], bands = facts >> 12;
  const int end_band = single_sum_of_lanes(bands), first_band = end_band - bands;
  SingleShared& head = m.head();
  head.slots[lane] = {expert, (facts & 15) | (facts & 15 << 4) << 4 | (facts & 15 << 8) << 8, first_band, bands};
  const int units = __shfl_sync(0xFFFFFFFFu, end_band, 31) * hidden_blocks, ctas = static_cast<int>(gridDim.x);
  // Not so short that more CTAs than kSingleSpan share a band.
  const int length = max((units + ctas - 1) / ctas, (hidden_blocks + kSingleSpan - 2) / (kSingleSpan - 1));
  const int begin = min(index * length, units), end = min(begin + length, units),
            first = a.hidden_blocks.quotient(begin);
  int pieces = 0;
#pragma unroll 1
  for (int band = first; band * hidden_blocks < end; ++band, ++pieces) {
    const unsigned up_to = __ballot_sync(0xFFFFFFFFu, bands > 0 && first_band <= band);
    const int slot = 31 - __clz(static_cast<int>(up_to));
    const int in_slot = band - __shfl_sync(0xFFFFFFFFu, first_band, slot);
    const int from = max(band * hidden_blocks, begin), to = min((band + 1) * hidden_blocks, end);
    if (lane == 0) m.pieces()[pieces] = {slot, in_slot, from - begin, to - from};
  }
  __syncwarp();
#pragma unroll 1
  for (int u = lane; u < end - begin; u += 32) {
    const int band = a.hidden_blocks.quotient(begin + u), piece = band - first;
    m.places()[u] = piece << 16 | (begin + u - band * hidden_blocks);
    const int bits = head.slots[m.pieces()[piece].slot].bits;
#pragma unroll
    for (int matrix = 0; matrix < 2; ++matrix) {
      const int input = a.matrices == 1 ? u : 2 * u + matrix;
      m.works()[2 * u + matrix] = {(bits >> (8 * matrix) & 15) | input << 4,
                                   a.at.sums / 4 + ((piece * 2 + matrix) * 2 + (u & 1)) * kBand};
    }
    m.works()[2 * (end - begin) + u] = {(bits >> 16 & 15) | (a.digit_blocks + piece) << 4, (begin + u) * kBand};
  }
  if (lane == 0) head.run = {Divisor(length), begin, end - begin, pieces};
}

__device__ __forceinline__ int single_bits(const SingleSlot& s, int matrix) {
  return s.bits >> (8 * matrix) & 255;
}

}  // namespace fairway::kernels::cuda
