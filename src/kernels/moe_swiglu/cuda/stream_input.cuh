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

template <class Shape>
__device__ __forceinline__ int input_column(int matrix, int token) {
  return 2 * (matrix * Shape::kTokens + token);
}

// sums[j] += four neighbouring floats at from + j * part in each of the pieces `first` .. `last`, which are kParts *
// `part` floats each, in this order. The loads of a batch are under way together: each takes some 600 cycles. Other
// CTAs of this launch wrote what they read, so they do not look into the L1 cache.
template <int kParts>
__device__ __forceinline__ void add_pieces(const float* from, int part, int first, int last, float4 (&sums)[kParts]) {
  constexpr int kBatch = 8 / kParts;
  for (int piece = first; piece <= last; piece += kBatch) {
    float4 v[kBatch][kParts];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
#pragma unroll
      for (int j = 0; j < kParts; ++j) {
        v[i][j] = make_float4(0, 0, 0, 0);
        if (piece + i > last) continue;
        const float* at = from + (static_cast<std::size_t>(piece + i) * kParts + j) * part;
        v[i][j] = __ldcg(reinterpret_cast<const float4*>(at));
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
#pragma unroll
      for (int j = 0; j < kParts; ++j) sums[j] = add4(sums[j], v[i][j]);
    }
  }
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

__device__ __forceinline__ void to_array(float4 from, float (&v)[4]) {
  v[0] = from.x;
  v[1] = from.y;
  v[2] = from.z;
  v[3] = from.w;
}

// What a lane needs to make its four inputs of a block of down, beside the sums: the pieces that have those, and four
// halves of each vector between gate and up and down, as they are in memory.
struct MiddleBlock {
  int first, last;
  uint2 gate, up, down;
};

__device__ __forceinline__ MiddleBlock middle_block(const StreamArgs& a, const StreamTable& t, const StreamSegment& s,
                                                    int block) {
  const int k = block * kBand + 4 * static_cast<int>(threadIdx.x & 31);
  const int item = s.first_band + block, hidden_blocks = a.layer.hidden / kBand;
  const ExpertRef& e = a.layer.experts[s.expert];
  return {item + unit_owner(t, s, block * hidden_blocks), item + unit_owner(t, s, (block + 1) * hidden_blocks - 1),
          *reinterpret_cast<const uint2*>(e.gate.svh + k), *reinterpret_cast<const uint2*>(e.up.svh + k),
          *reinterpret_cast<const uint2*>(e.down.suh + k)};
}

__device__ __forceinline__ void scale_by(float (&v)[4], uint2 halves) {
  const float2 a = __half22float2(as_half2(halves.x)), b = __half22float2(as_half2(halves.y));
  v[0] *= a.x;
  v[1] *= a.y;
  v[2] *= b.x;
  v[3] *= b.y;
}

// hadamard128() of two blocks: step by step together, because shuffles stay in the order in which they are written, and
// each step waits for its own.
__device__ __forceinline__ void hadamard128_both(float (&a)[4], float (&b)[4]) {
  const int lane = threadIdx.x & 31;
  hadamard128_begin(a);
  hadamard128_begin(b);
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const float sign = lane & distance ? -1.0f : 1.0f;
    float other[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      other[i] = __shfl_xor_sync(0xFFFFFFFFu, a[i], distance);
      other[4 + i] = __shfl_xor_sync(0xFFFFFFFFu, b[i], distance);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[i] = fmaf(a[i], sign, other[i]);
      b[i] = fmaf(b[i], sign, other[4 + i]);
    }
  }
}

// Inputs 4 * lane .. of one block of a token for down, from the sums of the first phase.
template <class Shape>
__device__ __forceinline__ void down_input(const StreamArgs& a, unsigned launch, int token, const MiddleBlock& middle,
                                           float (&v)[4]) {
  const int lane = threadIdx.x & 31;
  float4 sums[2] = {};
  if (linked<Shape>(a)) {
    constexpr int kPart = kLinkedTokens * kLinkedUnits;
    add_linked(linked_gate_up + token * kLinkedUnits + lane, kPart, 2 * kPart, middle.first, middle.last, launch, sums);
  } else {
    add_pieces(a.gate_up + token * kBand + 4 * lane, kSegmentTokens * kBand, middle.first, middle.last, sums);
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

// Where a lane keeps its four halves of a block until they are quantized: in the block's own place.
__device__ __forceinline__ uint2* kept_halves(const StreamArgs& a, unsigned char* block) {
  const int lane = threadIdx.x & 31;
  return reinterpret_cast<uint2*>(block + (lane >> 4) * a.input_stride + (lane & 15) * 8);
}

// Digits of two neighbouring inputs in units of the fixed point; returns the sum of the numbers.
__device__ __forceinline__ int store_digits(unsigned char* high, unsigned char* low, float a, float b) {
  const int q0 = __float2int_rn(a), q1 = __float2int_rn(b);
  const int h0 = (q0 + 64) >> 7, h1 = (q1 + 64) >> 7;
  *reinterpret_cast<unsigned short*>(high) = static_cast<unsigned short>((h0 & 255) | (h1 & 255) << 8);
  *reinterpret_cast<unsigned short*>(low) =
      static_cast<unsigned short>(((q0 - 128 * h0) & 255) | ((q1 - 128 * h1) & 255) << 8);
  return q0 + q1;
}
__device__ __forceinline__ int store_digits(unsigned char* high, unsigned char* low, u32 pair, float inverse) {
  const float2 v = __half22float2(as_half2(pair));
  return store_digits(high, low, v.x * inverse, v.y * inverse);
}

// Whether two segments have the same inputs of gate and up: the same tokens, and scales that all experts share.
__device__ inline bool same_inputs(const StreamArgs& a, const StreamSegment& s, const StreamSegment& other) {
  bool same = a.layer.common_suh != nullptr && s.count == other.count;
  for (int i = 0; i < s.count; ++i) same &= s.slots[i] / a.slots_per_token == other.slots[i] / a.slots_per_token;
  return same;
}

// One block of one token for one matrix. The warps of a CTA take them in turn.
struct InputUnit {
  int block, token = 0, matrix = 0;

  __device__ InputUnit(int first, int blocks, int tokens) : block(first) { settle(blocks, tokens); }
  __device__ void advance(int by, int blocks, int tokens) {
    block += by;
    settle(blocks, tokens);
  }
  __device__ void settle(int blocks, int tokens) {
    while (block >= blocks) {
      block -= blocks;
      if (++token == tokens) {
        token = 0;
        ++matrix;
      }
    }
  }
};

// Of the first block of down that a warp prepares in a segment.
__device__ __forceinline__ MiddleBlock first_middle(const StreamArgs& a, const StreamTable& t, const StreamSegment& s) {
  const int warp = static_cast<int>(threadIdx.x >> 5);
  return warp < s.bands * s.count ? middle_block(a, t, s, warp % s.bands) : MiddleBlock{};
}

// Makes the operands of a segment. Begins after and ends with a barrier of the computing warps. middle: of down,
// first_middle(). The caller asks for it early: the constants in it come from far.
template <class Shape, bool kDown>
__device__ void prepare_segment(const StreamArgs& a, const StreamTable& t, const StreamSegment& s, StreamInput& in,
                                MiddleBlock middle = {}) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, hidden_blocks = a.layer.hidden / kBand;
  const int matrices = kDown || a.layer.common_suh != nullptr ? 1 : 2;
  const int blocks = kDown ? s.bands : hidden_blocks, tokens = s.count;
  const InputUnit first(warp, blocks, tokens);
  int have = first.block;  // the block of `middle`
  if constexpr (kDown) {
    if (!linked<Shape>(a)) {
      if (warp == 0) {
        wait_for_flags(Written::kGateUp, unit_owner(t, s, 0), unit_owner(t, s, s.bands * hidden_blocks - 1), t.launch);
      }
      consumer_sync<Shape::kComputeThreads>();
    }
    stamp(a, kStampWaited);
  }
  in.set ^= 1;
  InputFacts& facts = in.facts[in.set];
  for (InputUnit unit = first; unit.matrix < matrices; unit.advance(Shape::kWarps, blocks, tokens)) {
    const int block = unit.block, token = unit.token, matrix = unit.matrix;
    float v[4];
    if constexpr (kDown) {
      if (block != have) middle = middle_block(a, t, s, have = block);
      down_input<Shape>(a, t.launch, token, middle, v);
    } else {
      gate_up_input(a, s, matrix, token, block, v);
    }
    const float own = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
    const int largest = __reduce_max_sync(0xFFFFFFFFu, __float_as_int(own));  // no sign: ordered as the floats are
    if (lane == 0) atomicMax(&facts.largest[matrix][token], largest);
    *kept_halves(a, in.digits + input_column<Shape>(matrix, token) * a.input_stride + block * kBand) =
        make_uint2(as_bits(to_half2(v[0], v[1])), as_bits(to_half2(v[2], v[3])));
  }
  consumer_sync<Shape::kComputeThreads>();
  const int place = fragment_order(4 * lane), next = fragment_order(4 * lane + 2);
  for (InputUnit unit = first; unit.matrix < matrices; unit.advance(Shape::kWarps, blocks, tokens)) {
    const int block = unit.block, token = unit.token, matrix = unit.matrix;
    const float largest = __int_as_float(facts.largest[matrix][token]);
    const float inverse = largest > 0 ? __fdividef(kDigitMax, largest) : 0.0f;
    unsigned char* high = in.digits + input_column<Shape>(matrix, token) * a.input_stride + block * kBand;
    unsigned char* low = high + a.input_stride;
    const uint2 halves = *kept_halves(a, high);
    __syncwarp();
    const int own = store_digits(high + place, low + place, halves.x, inverse) +
                    store_digits(high + next, low + next, halves.y, inverse);
    const int sum = __reduce_add_sync(0xFFFFFFFFu, own);
    if (lane == 0) atomicAdd(&facts.digit_sum[matrix][token], sum);
  }
  if (threadIdx.x < sizeof(InputFacts) / sizeof(int)) reinterpret_cast<int*>(in.facts + (in.set ^ 1))[threadIdx.x] = 0;
  consumer_sync<Shape::kComputeThreads>();
}

}  // namespace fairway::kernels::cuda
