// The integer paths: transforming and quantizing the tokens of an item in shared memory, the loop, and the sums over
// its warps.
#pragma once

#include "kernels/common/cuda/hidden.cuh"
#include "kernels/trellis_band/cuda/transform.cuh"
#include "kernels/trellis_band/cuda/walk_int.cuh"

namespace fairway::kernels::cuda {

constexpr int kDigitMax = 127 * 128;  // largest magnitude of a 15-bit activation: digits -127..127 and -64..63

// The tokens' digits in shared memory: two columns of a byte for each input, high and low digits, in fragment order.
struct DigitInput {
  unsigned char* data;
  int stride;  // bytes from one column to the next

  // Byte offset of the digits of one group of eight elements of a token: high digits, low ones a column later.
  __device__ int at(int token, int group) const { return 2 * token * stride + group * 8; }
};

template <int kGroupCount>
struct IntBand {
  static constexpr int kGroups = kGroupCount;
  static constexpr int kTokens = 4 * kGroups;

  struct Shared {
    alignas(16) float sums[kIntRowParts][kTokens][kInnerStride];
    int largest[kTokens];    // of |input|, as the bits of a float
    int digit_sum[kTokens];  // of the 15-bit activations
    float unit[kTokens];     // what they are multiples of
  };

  // Puts eight halves where their digits will be.
  static __device__ void stage_halves(const DigitInput& input, int token, int group, uint4 halves) {
    unsigned char* at = input.data + input.at(token, group);
    *reinterpret_cast<uint2*>(at) = make_uint2(halves.x, halves.y);
    *reinterpret_cast<uint2*>(at + input.stride) = make_uint2(halves.z, halves.w);
  }

  static __device__ void note_largest(Shared& shared, int token, float largest) {
    // Without a sign the bits are ordered as the floats are.
    const int bits = __reduce_max_sync(0xFFFFFFFFu, __float_as_int(largest));
    if ((threadIdx.x & 31) == 0) atomicMax(&shared.largest[token], bits);
  }
  static __device__ float largest_of(const float (&v)[4]) {
    return fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
  }

  static __device__ void add_digit_sum(Shared& shared, int token, int own) {
    const int sum = __reduce_add_sync(0xFFFFFFFFu, own);
    if ((threadIdx.x & 31) == 0) atomicAdd(&shared.digit_sum[token], sum);
  }

  static __device__ void set_unit(Shared& shared, int token) {
    shared.unit[token] = __int_as_float(shared.largest[token]) * (1.0f / kDigitMax);
  }
  static __device__ float inverse_unit(const Shared& shared, int token) {
    const float largest = __int_as_float(shared.largest[token]);
    return largest > 0 ? __fdividef(kDigitMax, largest) : 0.0f;
  }
  static __device__ __forceinline__ void split_digits(int q, int& high, int& low) {
    high = (q + 64) >> 7;
    low = q - 128 * high;
  }

  static __device__ void clear(Shared& shared) {
    if (threadIdx.x < kTokens) shared.largest[threadIdx.x] = shared.digit_sum[threadIdx.x] = 0;
  }

  // Scales and transforms blocks of the tokens' inputs: row_of(token) and suh point at the first one.
  template <class RowOf>
  static __device__ __forceinline__ void stage_inputs(const DigitInput& input, int tokens, int blocks,
                                                      const RowOf& row_of, const __half* suh, Shared& shared) {
    const auto transform = [&](int token, int k, float(&v)[4]) { transform_input(row_of(token) + k, suh + k, v); };
    stage_with(input, tokens, blocks, transform, shared);
  }

  // transform(token, k, v): what stage_inputs() makes of the inputs k..k+3, by a whole warp for a block.
  template <class Transform>
  static __device__ __forceinline__ void stage_with(const DigitInput& input, int tokens, int blocks,
                                                    const Transform& transform, Shared& shared) {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    for (int unit = warp; unit < tokens * blocks; unit += kComputeWarps) {
      const int token = unit / blocks, block = unit % blocks;
      const int k = block * kBand + 4 * lane;
      float v[4];
      transform(token, k, v);
      // The lane's places in fragment order: two pairs, in the high or the low column by their place in the group.
      unsigned char* at = input.data + 2 * token * input.stride + block * kBand;
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const int place = fragment_order(4 * lane + 2 * pair);
        const int column = place >> 2 & 1;
        *reinterpret_cast<__half2*>(at + column * input.stride + (place & ~7) + (place & 3) * 2) =
            to_half2(v[2 * pair], v[2 * pair + 1]);
      }
      note_largest(shared, token, largest_of(v));
    }
  }

  // stage_with(), a barrier, quantize() and another barrier, but transform(token, block, v), for so few blocks of all
  // tokens that they fit into the memory of the sums until then, and are not rounded to halves.
  static constexpr int kHeldBlocks = kIntRowParts * kTokens * kInnerStride / kBand;

  template <class Transform>
  static __device__ __forceinline__ void stage_held(const DigitInput& input, int tokens, int blocks,
                                                    const Transform& transform, Shared& shared) {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    float4* const held = reinterpret_cast<float4*>(shared.sums) + lane;  // each lane reads what it wrote
                                                                         // Unit `unit` is block `block` of `token`.
#pragma unroll 1
    for (int unit = warp, token = 0, block = warp; unit < tokens * blocks;
         unit += kComputeWarps, block += kComputeWarps) {
      for (; block >= blocks; block -= blocks) ++token;
      float v[4];
      transform(token, block, v);
      held[32 * unit] = make_float4(v[0], v[1], v[2], v[3]);
      note_largest(shared, token, largest_of(v));
    }
    consumer_sync<kComputeThreads>();
    if (threadIdx.x < static_cast<unsigned>(tokens)) set_unit(shared, static_cast<int>(threadIdx.x));
#pragma unroll 1
    for (int unit = warp, token = 0, block = warp; unit < tokens * blocks;
         unit += kComputeWarps, block += kComputeWarps) {
      for (; block >= blocks; block -= blocks) ++token;
      const float inverse = inverse_unit(shared, token);
      const float4 v = held[32 * unit];
      unsigned char* const at = input.data + 2 * token * input.stride + block * kBand;
      add_digit_sum(shared, token,
                    store_pair(at, input.stride, 4 * lane, v.x * inverse, v.y * inverse) +
                        store_pair(at, input.stride, 4 * lane + 2, v.z * inverse, v.w * inverse));
    }
    consumer_sync<kComputeThreads>();
  }

  // The digits of two neighbours from k on into their places of a block. Returns the sum of the integers.
  static __device__ __forceinline__ int store_pair(unsigned char* block, int stride, int k, float a, float b) {
    const int q[2] = {__float2int_rn(a), __float2int_rn(b)};
    int high[2], low[2];
    split_digits(q[0], high[0], low[0]);
    split_digits(q[1], high[1], low[1]);
    unsigned char* const place = block + fragment_order(k);
    *reinterpret_cast<unsigned short*>(place) = static_cast<unsigned short>((high[0] & 255) | (high[1] & 255) << 8);
    *reinterpret_cast<unsigned short*>(place + stride) =
        static_cast<unsigned short>((low[0] & 255) | (low[1] & 255) << 8);
    return q[0] + q[1];
  }

  static __device__ float largest_of(uint4 halves) {
    const __half2 m = __hmax2(__hmax2(__habs2(as_half2(halves.x)), __habs2(as_half2(halves.y))),
                              __hmax2(__habs2(as_half2(halves.z)), __habs2(as_half2(halves.w))));
    return fmaxf(__low2float(m), __high2float(m));
  }

  // The same of inputs that are already transformed, halves in fragment order.
  template <class RowOf>
  static __device__ __forceinline__ void stage_transformed(const DigitInput& input, int tokens, int blocks,
                                                           const RowOf& row_of, Shared& shared) {
    const int groups = blocks * (kBand / 8);
    for (int token = 0; token < tokens; ++token) {
      const __half* row = row_of(token);
      float largest = 0;
      for (int group = threadIdx.x; group < groups; group += kComputeThreads) {
        const uint4 halves = *reinterpret_cast<const uint4*>(row + 8 * group);
        stage_halves(input, token, group, halves);
        largest = fmaxf(largest, largest_of(halves));
      }
      note_largest(shared, token, largest);
    }
  }

  // One half pair to two 15-bit integers.
  static __device__ void quantize_pair(u32 pair, float inverse, int* q) {
    const float2 v = __half22float2(as_half2(pair));
    q[0] = __float2int_rn(v.x * inverse);
    q[1] = __float2int_rn(v.y * inverse);
  }

  // Staged halves to digits.
  static __device__ void quantize(const DigitInput& input, int tokens, int blocks, Shared& shared) {
    const int groups = blocks * (kBand / 8);
    for (int token = 0; token < tokens; ++token) {
      const float inverse = inverse_unit(shared, token);
      if (threadIdx.x == 0) set_unit(shared, token);
      int sum = 0;
      for (int group = threadIdx.x; group < groups; group += kComputeThreads) {
        uint2* high_at = reinterpret_cast<uint2*>(input.data + input.at(token, group));
        uint2* low_at = reinterpret_cast<uint2*>(input.data + input.at(token, group) + input.stride);
        int q[8];
        quantize_pair(high_at->x, inverse, q);
        quantize_pair(high_at->y, inverse, q + 2);
        quantize_pair(low_at->x, inverse, q + 4);
        quantize_pair(low_at->y, inverse, q + 6);
        u32 high[2] = {0, 0}, low[2] = {0, 0};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          int h, l;
          split_digits(q[i], h, l);
          high[i / 4] |= static_cast<u32>(h & 255) << (8 * (i % 4));
          low[i / 4] |= static_cast<u32>(l & 255) << (8 * (i % 4));
          sum += q[i];
        }
        *high_at = make_uint2(high[0], high[1]);
        *low_at = make_uint2(low[0], low[1]);
      }
      add_digit_sum(shared, token, sum);
    }
  }

  // inner[token][kInnerStride] = the sums over the next blocks of the ring, in the units of the codebook.
  static __device__ __forceinline__ void multiply(RingCursor& ring, int bits, int blocks, int tokens,
                                                  const DigitInput& input, Shared& shared, float* inner) {
    multiply_parts(ring, bits, blocks, input, shared);
    add_row_parts(tokens, shared, inner);
    consumer_sync<kComputeThreads>();
  }

  // The same into shared.sums, see sums_of().
  static __device__ __forceinline__ void multiply_parts(RingCursor& ring, int bits, int blocks, const DigitInput& input,
                                                        Shared& shared) {
    int acc[kIntTiles][kGroups][4] = {};
    switch (bits) {
#define FAIRWAY_CASE(bits)                                                \
  case bits:                                                              \
    walk_int<bits, kGroups>(ring, blocks, input.data, input.stride, acc); \
    break;
      FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
    }
    const int thread = hidden_thread(), warp = thread >> 5, lane = thread & 31;
    const int column = (warp & 1) * kIntTiles * 16 + (lane >> 2), token = lane & 3;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      float* sums = shared.sums[warp >> 1][4 * g + token] + column;
#pragma unroll
      for (int tile = 0; tile < kIntTiles; ++tile) {
        const int* c = acc[tile][g];
        sums[16 * tile] = 128.0f * static_cast<float>(c[0]) + static_cast<float>(c[1]);
        sums[16 * tile + 8] = 128.0f * static_cast<float>(c[2]) + static_cast<float>(c[3]);
      }
    }
    consumer_sync<kComputeThreads>();
  }

  // From a sum of n * digit to that of weight * input.
  static __device__ __forceinline__ float from_fixed_point(const Shared& shared, int token, float sum) {
    return shared.unit[token] * (kMul1Scale * sum + kMul1Bias * static_cast<float>(shared.digit_sum[token]));
  }

  // Four columns of a token after multiply_parts().
  static __device__ __forceinline__ float4 sums_of(const Shared& shared, int token, int column) {
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int p = 0; p < kIntRowParts; ++p) {
      const float4 part = *reinterpret_cast<const float4*>(&shared.sums[p][token][column]);
      sum.x += part.x;
      sum.y += part.y;
      sum.z += part.z;
      sum.w += part.w;
    }
    return make_float4(from_fixed_point(shared, token, sum.x), from_fixed_point(shared, token, sum.y),
                       from_fixed_point(shared, token, sum.z), from_fixed_point(shared, token, sum.w));
  }

  static __device__ void add_row_parts(int tokens, const Shared& shared, float* inner) {
    for (int i = hidden_thread(); i < tokens * kBand; i += kComputeThreads) {
      const int token = i / kBand, column = i % kBand;
      float sum = 0;
      for (int p = 0; p < kIntRowParts; ++p) sum += shared.sums[p][token][column];
      inner[token * kInnerStride + column] = from_fixed_point(shared, token, sum);
    }
  }
};

}  // namespace fairway::kernels::cuda
