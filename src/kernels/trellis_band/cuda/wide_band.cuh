// What the wide kernels share: a CTA of four teams and a loading warp, its stages, and the way from the teams' sums to
// outputs. A CTA computes two bands at a time ("halves") for the same rows, teams 0 and 1 the first, 2 and 3 the
// second.
#pragma once

#include "kernels/common/cuda/hidden.cuh"
#include "kernels/trellis_band/cuda/panels.cuh"
#include "kernels/trellis_band/cuda/trellis_ref.cuh"

namespace fairway::kernels::cuda {

constexpr int kWideHalves = 2;
constexpr int kWideWarps = 16;
constexpr int kWideComputeThreads = 32 * kWideWarps;
// A loading warp, and three idle ones: registers move between groups of four warps. A fifth warp on each quarter of an
// SM leaves 96 of them for each thread; the loading group keeps fewer and the teams have more. 32 and 112 or 64 and 104
// of them are the same sum as the launch has.
constexpr int kWideCtaThreads = kWideComputeThreads + 128;
constexpr int kWideRound = 64;  // rows whose sums are in shared memory at a time

// Shared memory of a CTA: the stages of the ring, then this.
struct alignas(16) WideSums {
  float values[kWideHalves][kWideRound][kInnerStride];
};

// A stage: the tokens' inputs, one set of them or one for each half, and the coded words of the halves.
struct WideStage {
  int input_sets;
  int max_bits;

  __host__ __device__ static int weight_bytes(int bits) { return kWideTileRows * kBandTiles * 32 * bits; }
  __host__ __device__ int words_at(int half) const {
    return input_sets * kWideTokenBytes + half * weight_bytes(max_bits);
  }
  __host__ __device__ int tokens_at(int half) const { return input_sets == 1 ? 0 : half * kWideTokenBytes; }
  __host__ __device__ int bytes() const { return words_at(kWideHalves); }  // a multiple of 1024
};

// One lane's part of every stage of an item: lanes 0..7 copy tile rows, 8 and 9 rows of inputs, others nothing.
struct WideLoader {
  const unsigned char* from = nullptr;
  unsigned step = 0;  // bytes to the next stage
  int to = 0, bytes = 0;
  int stage_bytes = 0;  // of all lanes

  static constexpr int kInputLane = kWideHalves * kWideTileRows;

  // out: columns of the matrix. first: panel.
  __device__ void set_words(const WideStage& stage, int half, const TrellisRef& m, int out, int band, int first) {
    const int lane = static_cast<int>(threadIdx.x & 31), row = lane % kWideTileRows;
    if (lane / kWideTileRows != half) return;
    const unsigned row_bytes = 2u * static_cast<unsigned>(out * m.bits);
    bytes = 2 * kBand * m.bits;
    from = m.words + (static_cast<std::size_t>(first) * kWideTileRows + static_cast<unsigned>(row)) * row_bytes +
           static_cast<std::size_t>(band) * static_cast<unsigned>(bytes);
    step = kWideTileRows * row_bytes;
    to = stage.words_at(half) + row * bytes;
  }
  // panels: with `rows` rows each, of which `count` from begin on, a multiple of eight, are read.
  __device__ void set_inputs(int set, const __half* panels, int rows, int begin, int count, int first) {
    if (static_cast<int>(threadIdx.x & 31) != kInputLane + set) return;
    from =
        reinterpret_cast<const unsigned char*>(panels) +
        (static_cast<std::size_t>(first) * static_cast<unsigned>(rows) + static_cast<unsigned>(begin)) * kWideRowBytes;
    step = static_cast<unsigned>(rows) * kWideRowBytes;
    to = set * kWideTokenBytes;
    bytes = count * kWideRowBytes;
  }
  // After the lanes' parts have been set.
  __device__ void add_up() { stage_bytes = __reduce_add_sync(0xFFFFFFFFu, bytes); }

  __device__ __forceinline__ void copy(const RingCursor& ring) {
    if (bytes > 0) bulk_load(ring.data() + to, from, bytes, ring.full());
    from += step;
  }
  // The words of the next stage; it is full when its inputs are there too.
  __device__ __forceinline__ void load_words(const RingCursor& ring) {
    const int lane = static_cast<int>(threadIdx.x & 31);
    if (lane == 0) barrier_expect(ring.full(), stage_bytes);
    __syncwarp();
    if (lane < kInputLane) copy(ring);
  }
  __device__ __forceinline__ void load_inputs(const RingCursor& ring) {
    if ((threadIdx.x & 31) >= kInputLane) copy(ring);
  }
  // `done`: stages whose words have been loaded.
  __device__ __forceinline__ void load(RingCursor& ring, int done, int stages) {
#pragma unroll 1
    for (int s = 0; s < done; ++s, ring.advance()) load_inputs(ring);
#pragma unroll 1
    for (int s = done; s < stages; ++s, ring.advance()) {
      ring.wait_empty();
      load_words(ring);
      load_inputs(ring);
    }
  }
  // The words of as many stages as an unused ring has; their number.
  __device__ __forceinline__ int load_ahead(RingCursor ring, int stages) {
    const int done = min(ring.stage_count, stages);
#pragma unroll 1
    for (int s = 0; s < done; ++s, ring.advance()) load_words(ring);
    return done;
  }
};

__device__ __forceinline__ int wide_half() {
  return static_cast<int>(threadIdx.x) / (kWideComputeThreads / kWideHalves);
}
__device__ __forceinline__ WideOperands wide_operands(const WideStage& stage, int bits) {
  const int half = wide_half(), column = static_cast<int>(threadIdx.x >> 5) % kBandTiles;
  return {stage.words_at(half) + column * 32 * bits, stage.tokens_at(half)};
}

// For warps without a band.
__device__ __forceinline__ void skip_stages(RingCursor& ring, int stages) {
#pragma unroll 1
  for (int s = 0; s < stages; ++s, ring.advance()) {
    ring.wait_full();
    ring.release();
  }
}

// The sums of the first kWideRound rows, and in their place those of the next ones.
__device__ __forceinline__ void store_wide_sums(float (&acc)[kWgmmaSums], WideSums& sums) {
  constexpr int kStored = kWideRound / 2;
  const int thread = hidden_thread(), warp = thread >> 5, lane = thread & 31;
  float* at = &sums.values[warp / kBandTiles][2 * (lane & 3)][warp % kBandTiles * 16 + (lane >> 2)];
#pragma unroll
  for (int i = 0; i < kStored; ++i) at[(i / 4 * 8 + (i & 1)) * kInnerStride + (i >> 1 & 1) * 8] = acc[i];
#pragma unroll
  for (int i = 0; i + kStored < kWgmmaSums; ++i) acc[i] = acc[i + kStored];
}

constexpr float kHadamardScale = 0.08838834764831845f;  // 1 / sqrt(128)

// The transform of a block by eight lanes, but for kHadamardScale: v[4 i + j] is element 32 i + 4 l + j for lane l of
// the eight. A warp transforms four rows at a time, with three fifths of the shuffles that hadamard128() takes.
constexpr int kOctetElements = kBand / 8;
__device__ __forceinline__ int octet_element(int lane, int i) {  // of v[4 i]
  return 32 * i + 4 * (lane & 7);
}
__device__ __forceinline__ void hadamard128_by_octet(float (&v)[kOctetElements]) {
#pragma unroll
  for (int distance = 1; distance < kOctetElements; distance *= 2) {
#pragma unroll
    for (int i = 0; i < kOctetElements; ++i) {
      if ((i & distance) != 0) continue;
      const float a = v[i], b = v[i + distance];
      v[i] = a + b;
      v[i + distance] = a - b;
    }
  }
#pragma unroll
  for (int distance = 1; distance < 8; distance *= 2) {
    const float sign = (threadIdx.x & static_cast<unsigned>(distance)) != 0 ? -1.0f : 1.0f;
#pragma unroll
    for (int i = 0; i < kOctetElements; ++i) {
      v[i] = fmaf(v[i], sign, __shfl_xor_sync(0xFFFFFFFFu, v[i], distance));
    }
  }
}
// row: 128 floats, 16-byte aligned.
__device__ __forceinline__ void load_octet(const float* row, int lane, float (&v)[kOctetElements]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    *reinterpret_cast<float4*>(v + 4 * i) = *reinterpret_cast<const float4*>(row + octet_element(lane, i));
  }
}
// factors: of the block, 16-byte aligned.
__device__ __forceinline__ void scale_octet(float (&v)[kOctetElements], const float* factors, int lane) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float4 s = *reinterpret_cast<const float4*>(factors + octet_element(lane, i));
    v[4 * i] *= s.x;
    v[4 * i + 1] *= s.y;
    v[4 * i + 2] *= s.z;
    v[4 * i + 3] *= s.w;
  }
}

}  // namespace fairway::kernels::cuda
