// The stream kernel's input operands: the tokens of a segment, transformed, as the two int8 digits of 15-bit fixed
// point, in shared memory.
#pragma once

#include "kernels/moe_swiglu/cuda/int_path.cuh"
#include "kernels/moe_swiglu/cuda/stream_args.cuh"

namespace fairway::kernels::cuda {

// Of the tokens of one segment, by matrix: the scale of the fixed point and the sum of all its numbers.
struct InputFacts {
  int largest[2][kSegmentTokens];  // |input|, as the bits of a float
  int digit_sum[2][kSegmentTokens];
};

struct StreamInput {
  unsigned char* digits;  // [matrix][2 * token + digit][input_stride], fragment order
  InputFacts* facts;      // [2]: of this segment, and zeros for the next one
  int set = 0;
};

__device__ __forceinline__ int input_column(int matrix, int token) {
  return 2 * (matrix * kSegmentTokens + token);
}

// Inputs 4 * lane .. of one block of a token, for gate and up.
__device__ __forceinline__ void gate_up_input(const StreamArgs& a, const StreamSegment& s, int matrix, int token,
                                              int block, float (&v)[4]) {
  const int k = block * kBand + 4 * static_cast<int>(threadIdx.x & 31);
  const long long row = s.slots[token] / a.slots_per_token;
  const __half* suh = a.layer.common_suh;
  if (suh == nullptr) {
    const ExpertRef& e = a.layer.experts[s.expert];
    suh = matrix == 0 ? e.gate.suh : e.up.suh;
  }
  load_half4(a.call.x + row * a.call.ldx + k, v);
  scale_by(v, suh + k);
  hadamard128(v);
}

// The same for down, from the sums of the first phase.
__device__ __forceinline__ void down_input(const StreamArgs& a, const Run& run, const StreamSegment& s, int token,
                                           int block, float (&v)[4]) {
  const int lane = threadIdx.x & 31, item = s.first_band + block, hidden_blocks = a.layer.hidden / kBand;
  const ExpertRef& e = a.layer.experts[s.expert];
  float gate[4] = {};
#pragma unroll
  for (int j = 0; j < 4; ++j) v[j] = 0;
  for_each_owner(run, item * hidden_blocks, hidden_blocks, [&](int cta) {
    const float* at = a.gate_up + static_cast<std::size_t>(item + cta) * (2 * kSegmentTokens * kBand) + token * kBand;
    const float4 g = load_l2(at + 4 * lane), u = load_l2(at + kSegmentTokens * kBand + 4 * lane);
    gate[0] += g.x;
    gate[1] += g.y;
    gate[2] += g.z;
    gate[3] += g.w;
    v[0] += u.x;
    v[1] += u.y;
    v[2] += u.z;
    v[3] += u.w;
  });
  const int k = block * kBand + 4 * lane;
  hadamard128(gate);
  scale_by(gate, e.gate.svh + k);
  hadamard128(v);
  scale_by(v, e.up.svh + k);
#pragma unroll
  for (int j = 0; j < 4; ++j) v[j] *= gate[j] / (1.0f + __expf(-gate[j]));
  scale_by(v, e.down.suh + k);
  hadamard128(v);
}

// Where a lane keeps its four halves of a block until they are quantized: in the block's own place.
__device__ __forceinline__ uint2* kept_halves(const StreamArgs& a, unsigned char* block) {
  const int lane = threadIdx.x & 31;
  return reinterpret_cast<uint2*>(block + (lane >> 4) * a.input_stride + (lane & 15) * 8);
}

// Digits of two neighbouring inputs; returns the sum of the numbers.
__device__ __forceinline__ int store_digits(unsigned char* high, unsigned char* low, u32 pair, float inverse) {
  const float2 v = __half22float2(as_half2(pair));
  const int q0 = __float2int_rn(v.x * inverse), q1 = __float2int_rn(v.y * inverse);
  const int h0 = (q0 + 64) >> 7, h1 = (q1 + 64) >> 7;
  *reinterpret_cast<unsigned short*>(high) = static_cast<unsigned short>((h0 & 255) | (h1 & 255) << 8);
  *reinterpret_cast<unsigned short*>(low) =
      static_cast<unsigned short>(((q0 - 128 * h0) & 255) | ((q1 - 128 * h1) & 255) << 8);
  return q0 + q1;
}

// Makes the operands of a segment. Begins after and ends with a barrier of the computing warps.
template <class Shape, bool kDown>
__device__ void prepare_segment(const StreamArgs& a, const Run& run, const StreamSegment& s, StreamInput& in) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int matrices = kDown || a.layer.common_suh != nullptr ? 1 : 2;
  const int blocks = kDown ? s.bands : a.layer.hidden / kBand, units = matrices * s.count * blocks;
  in.set ^= 1;
  InputFacts& facts = in.facts[in.set];
  for (int unit = warp; unit < units; unit += Shape::kWarps) {
    const int block = unit % blocks, token = unit / blocks % s.count, matrix = unit / blocks / s.count;
    float v[4];
    if constexpr (kDown) {
      down_input(a, run, s, token, block, v);
    } else {
      gate_up_input(a, s, matrix, token, block, v);
    }
    float largest = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
#pragma unroll
    for (int d = 16; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, d));
    if (lane == 0) atomicMax(&facts.largest[matrix][token], __float_as_int(largest));
    *kept_halves(a, in.digits + input_column(matrix, token) * a.input_stride + block * kBand) =
        make_uint2(as_bits(to_half2(v[0], v[1])), as_bits(to_half2(v[2], v[3])));
  }
  consumer_sync<Shape::kComputeThreads>();
  const int place = fragment_order(4 * lane), next = fragment_order(4 * lane + 2);
  for (int unit = warp; unit < units; unit += Shape::kWarps) {
    const int block = unit % blocks, token = unit / blocks % s.count, matrix = unit / blocks / s.count;
    const float largest = __int_as_float(facts.largest[matrix][token]);
    const float inverse = largest > 0 ? kDigitMax / largest : 0.0f;
    unsigned char* high = in.digits + input_column(matrix, token) * a.input_stride + block * kBand;
    unsigned char* low = high + a.input_stride;
    const uint2 halves = *kept_halves(a, high);
    __syncwarp();
    int sum = store_digits(high + place, low + place, halves.x, inverse) +
              store_digits(high + next, low + next, halves.y, inverse);
#pragma unroll
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, d);
    if (lane == 0) atomicAdd(&facts.digit_sum[matrix][token], sum);
  }
  if (threadIdx.x < sizeof(InputFacts) / sizeof(int)) reinterpret_cast<int*>(in.facts + (in.set ^ 1))[threadIdx.x] = 0;
  consumer_sync<Shape::kComputeThreads>();
}

}  // namespace fairway::kernels::cuda
