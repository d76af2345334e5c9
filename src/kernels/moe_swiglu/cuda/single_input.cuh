// The single kernel's inputs: the two int8 digits of 15-bit fixed point, with a scale of its own for every block of
// 128, in shared memory and in the form of the tensor instruction's operand: each digit four times.
#pragma once

#include "kernels/moe_swiglu/cuda/int_path.cuh"
#include "kernels/moe_swiglu/cuda/single_args.cuh"
#include "kernels/moe_swiglu/cuda/stream_input.cuh"

namespace fairway::kernels::cuda {

// Bytes from a tile row of the operand to the next. Lane 4 d + q of the first eight reads the 16 bytes of digit d (0
// the high one) of inputs 2q, 2q + 1, 2q + 8 and 2q + 9 of a tile row.
constexpr int kDigitRow = kDigitBytes / kBandTiles;

// Digits of a block; lane l has inputs 4 l .. 4 l + 3.
__device__ inline void single_quantize(float (&v)[4], unsigned char* digits, float2* scale) {
  constexpr float kMost = 65504.0f;                                    // of a half: beyond it other paths saturate
  constexpr float kSumScale = codec::kMul1ScaleNumerator / 262144.0f;  // 2^18
  constexpr float kSumBias = 1024 * kSumScale + codec::kMul1BiasNumerator / 262144.0f;
  const int lane = static_cast<int>(threadIdx.x & 31);
  float most = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[i] = fminf(fmaxf(v[i], -kMost), kMost);
    most = fmaxf(most, fabsf(v[i]));
  }
  const float largest = __int_as_float(__reduce_max_sync(0xFFFFFFFFu, __float_as_int(most)));
  const float inverse = largest > 0 ? __fdividef(kDigitMax, largest) : 0.0f;
  unsigned high[4], low[4];
  int own = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int q = __float2int_rn(v[i] * inverse), h = (q + 64) >> 7;
    own += q;
    high[i] = static_cast<unsigned>(h & 255) * 0x01010101u;
    low[i] = static_cast<unsigned>((q - 128 * h) & 255) * 0x01010101u;
  }
  unsigned char* to = digits + (lane >> 2) * kDigitRow + (lane & 1) * 32 + (lane >> 1 & 1) * 8;
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    *reinterpret_cast<uint2*>(to + 16 * pair) = make_uint2(high[2 * pair], high[2 * pair + 1]);
    *reinterpret_cast<uint2*>(to + 16 * pair + kDigitRow / 2) = make_uint2(low[2 * pair], low[2 * pair + 1]);
  }
  const int sum = __reduce_add_sync(0xFFFFFFFFu, own);
  const float unit = largest * (1.0f / kDigitMax);
  if (lane == 0) *scale = make_float2(unit * kSumScale, unit * kSumBias * static_cast<float>(sum));
}

// The token, with the input scales if all matrices share them. All threads from `first` on.
__device__ inline void single_load_row(const SingleArgs& a, const SingleMemory& m, int first) {
#pragma unroll 1
  for (int k = 4 * (static_cast<int>(threadIdx.x) - first); k < a.layer.hidden; k += 4 * (kSingleThreads - first)) {
    float v[4];
    load_half4(a.call.x + k, v);
    if (a.layer.common_suh != nullptr) scale_by(v, a.layer.common_suh + k);
    *reinterpret_cast<float4*>(m.row() + k) = make_float4(v[0], v[1], v[2], v[3]);
  }
}

// Input i of the run for gate and up. One warp.
__device__ __forceinline__ void single_gate_up_input(const SingleArgs& a, const SingleMemory& m, int i, float (&v)[4]) {
  const int place = m.places()[i >> (a.matrices - 1)],
            k = (place & 0xFFFF) * kBand + 4 * static_cast<int>(threadIdx.x & 31);
  to_array(*reinterpret_cast<const float4*>(m.row() + k), v);
  if (a.matrices == 2) {
    const ExpertRef& e = a.layer.experts[m.head().slots[m.pieces()[place >> 16].slot].expert];
    scale_by(v, (i & 1 ? e.up : e.gate).suh + k);
  }
  hadamard128(v);
}

// What the CTA has of four neighbouring sums of a piece. A run's units are in the sums by whether they are even.
__device__ __forceinline__ float4 single_own_sums(const SingleMemory& m, const SinglePiece& p, int piece, int matrix,
                                                  int column) {
  float4 sum = make_float4(0, 0, 0, 0);
  if (p.count > 1 || p.first % 2 == 0) sum = *reinterpret_cast<const float4*>(m.sums(piece, matrix, 0) + column);
  if (p.count > 1 || p.first % 2 == 1) {
    sum = add4(sum, *reinterpret_cast<const float4*>(m.sums(piece, matrix, 1) + column));
  }
  return sum;
}

// The CTAs that share the band of a piece.
struct SingleSharers {
  int first, last, begin;  // begin: the band's first unit
  __device__ SingleSharers(const SingleArgs& a, const SingleMemory& m, const SinglePiece& p) {
    const Divisor length = m.head().run.length;
    begin = (m.head().slots[p.slot].first_band + p.band) * a.hidden_blocks.value;
    first = length.quotient(begin);
    last = length.quotient(begin + a.hidden_blocks.value - 1);
  }
  // Which of its two places of the exchange a sharer uses: its first piece, unless it has begun before the band.
  __device__ int end_of(int cta, int length) const { return cta * length >= begin ? 0 : 1; }
};

// Sends the sums of bands that other CTAs have parts of, and waits for theirs. All threads; between barriers.
__device__ inline void single_exchange_sums(const SingleArgs& a, const SingleMemory& m, int index) {
  const SingleRun& run = m.head().run;
  const unsigned launch = m.head().launch;
  constexpr int kFours = kSinglePair / 4;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < 2 * kFours; i += kSingleThreads) {
    const int end = i / kFours, piece = end == 0 ? 0 : run.pieces - 1, four = i % kFours;
    const SinglePiece p = m.pieces()[piece];
    if (p.count == a.hidden_blocks.value || (end == 1 && piece == 0)) continue;
    float v[4];
    to_array(single_own_sums(m, p, piece, four / (kBand / 4), 4 * four % kBand), v);
#pragma unroll
    for (int j = 0; j < 4; ++j) send_tagged(&single_exchange[index][end][4 * four + j], v[j], launch);
  }
  const int column = static_cast<int>(threadIdx.x) % kSinglePair, team = static_cast<int>(threadIdx.x) / kSinglePair;
#pragma unroll 1
  for (int end = 0; end < min(run.pieces, 2); ++end) {
    const SingleSharers sharers(a, m, m.pieces()[end == 0 ? 0 : run.pieces - 1]);
#pragma unroll 1
    for (int cta = sharers.first + team; cta <= sharers.last; cta += kSingleThreads / kSinglePair) {
      if (cta == index) continue;
      m.arrived(end, cta - sharers.first)[column] =
          wait_for_tagged(&single_exchange[cta][sharers.end_of(cta, run.length.value)][column], launch);
    }
  }
}

// Four halves of each vector between gate and up and down.
struct SingleMiddle {
  uint2 gate, up, down;
  __device__ void load(const SingleArgs& a, const SingleMemory& m, int piece) {
    const SinglePiece& p = m.pieces()[piece];
    const ExpertRef& e = a.layer.experts[m.head().slots[p.slot].expert];
    const int k = p.band * kBand + 4 * static_cast<int>(threadIdx.x & 31);
    gate = *reinterpret_cast<const uint2*>(e.gate.svh + k);
    up = *reinterpret_cast<const uint2*>(e.up.svh + k);
    down = *reinterpret_cast<const uint2*>(e.down.suh + k);
  }
};

// The input of down of a piece, from all parts of its sums. One warp.
__device__ __forceinline__ void single_down_input(const SingleArgs& a, const SingleMemory& m, int index, int piece,
                                                  const SingleMiddle& middle, float (&v)[4]) {
  const SinglePiece& p = m.pieces()[piece];
  const SingleSharers sharers(a, m, p);
  const int column = 4 * static_cast<int>(threadIdx.x & 31);
  float4 sums[2] = {};
#pragma unroll 1
  for (int cta = sharers.first; cta <= sharers.last; ++cta) {
    const float* from = m.arrived(piece == 0 ? 0 : 1, cta - sharers.first) + column;
#pragma unroll
    for (int matrix = 0; matrix < 2; ++matrix) {
      const float4 part = cta == index ? single_own_sums(m, p, piece, matrix, column)
                                       : *reinterpret_cast<const float4*>(from + matrix * kBand);
      sums[matrix] = add4(sums[matrix], part);
    }
  }
  float gate[4];
  to_array(sums[0], gate);
  to_array(sums[1], v);
  hadamard128_both(gate, v);
  scale_by(gate, middle.gate);
  scale_by(v, middle.up);
#pragma unroll
  for (int j = 0; j < 4; ++j) v[j] *= __fdividef(gate[j], 1.0f + __expf(-gate[j]));
  scale_by(v, middle.down);
  hadamard128(v);
}

}  // namespace fairway::kernels::cuda
