// kv_b_proj for few rows: a CTA keeps some outputs of a head in registers, loaded before the kernel ahead has ended,
// and rows pass by eight at a time. Outputs are the rows of the tensor instructions, rows of x their columns.
#pragma once

#include <cuda_fp16.h>

#include <type_traits>

#include "kernels/attention_mla/cuda/four_weights.cuh"
#include "kernels/attention_mla/cuda/mla_projection.cuh"
#include "kernels/attention_mla/cuda/scale_normalizer.cuh"
#include "kernels/common/cuda/hopper.cuh"

namespace fairway::kernels::cuda {

constexpr int kFewThreads = 128;
constexpr int kFewRows = 8;  // rows of x at a time
constexpr int kMaxLatent = 512, kMaxNope = 256;
constexpr int kAbsorbOutputs = 64, kAbsorbParts = 4, kAbsorbSteps = kMaxNope / 16 / kAbsorbParts;
constexpr int kUnfoldOutputs = 32, kUnfoldParts = 2, kUnfoldChunks = kMaxLatent / 64 / kUnfoldParts;
constexpr int kFewPad = 4;       // floats, between sums of a row
constexpr int kMaxFewRows = 64;  // derived: above that half of the rows of the other kernel's tiles are in use
constexpr int kRowBlocks = 3;    // about as many CTAs as run at once with 20 heads

// How many rows a CTA takes, a multiple of kFewRows.
inline int rows_of_block(int rows) {
  const int groups = (rows + kFewRows - 1) / kFewRows;
  return (groups + kRowBlocks - 1) / kRowBlocks * kFewRows;
}

constexpr int kAbsorbSums = 2 * kAbsorbParts * kFewRows * (kAbsorbOutputs + kFewPad);  // floats
constexpr int kAbsorbSharedBytes = (kAbsorbSums + kMaxNope) * static_cast<int>(sizeof(float));
constexpr int kUnfoldSharedBytes =
    2 * kUnfoldParts * kFewRows * (kUnfoldOutputs + kFewPad) * static_cast<int>(sizeof(float));

// Whatever a thread needs is loaded before any of it is used, so that it waits for memory once: what does not exist is
// read from where something does, and weights are zeros there.
__device__ __forceinline__ uint2 unless(bool absent, uint2 v) {
  return absent ? make_uint2(0, 0) : v;
}
__device__ __forceinline__ uint4 unless(bool absent, uint4 v) {
  return absent ? make_uint4(0, 0, 0, 0) : v;
}

// Waits for the kernel ahead when the weights are converted. The compiler would convert them where they are used, while
// nothing else is left to do; a wait that depends on them, if hardly ever, keeps it from that.
template <int kSteps>
__device__ __forceinline__ void wait_with_weights(const unsigned (&a)[kSteps][4][4]) {
  unsigned all = 0;
#pragma unroll
  for (int i = 0; i < kSteps * 16; ++i) all ^= a[i / 16][i / 4 % 4][i % 4];
  if (all == 0x9E3779B9u) wait_for_previous_kernel();
  wait_for_previous_kernel();
}

// A warp's part of the sums of 64 latents: n in steps of 16. Lane (g, i) = (lane / 4, lane % 4) has n = 4 i .. 4 i + 3
// of a step and latents 8 g .. 8 g + 7; rows g and g + 8 of output tile j are latents 8 g + 2 j and 8 g + 2 j + 1.
template <UpWeight kType>
struct AbsorbWeights {
  using Eight = std::conditional_t<kType == UpWeight::kHalf, uint4, uint2>;  // weights
  unsigned a[kAbsorbSteps][4][4];
  int last_offset;

  // Of the lane's n. Found anew instead of kept: registers are short.
  __device__ __forceinline__ int offset(int s) const {
    const int first = static_cast<int>(threadIdx.x) / 32 * 16 + static_cast<int>(threadIdx.x) % 4 * 4;
    return min(first + 16 * kAbsorbParts * s, last_offset);
  }

  // row0: the head's first stored row.
  __device__ __forceinline__ void load(const MlaUpProjection& up, long long row0, int first_latent, int part,
                                       int lane) {
    const int steps = up.nope / 16;
    last_offset = 16 * (steps - 1) + 4 * (lane % 4);
    Eight stored[kAbsorbSteps][4];
#pragma unroll
    for (int s = 0; s < kAbsorbSteps; ++s) {
      const long long n = row0 + offset(s);
      const Eight* const from = static_cast<const Eight*>(up.weights) + (n * up.latent + first_latent) / 8 + lane / 4;
      for (int e = 0; e < 4; ++e) stored[s][e] = from[e * (up.latent / 8)];
    }
#pragma unroll
    for (int s = 0; s < kAbsorbSteps; ++s) {
      for (int e = 0; e < 4; ++e) stored[s][e] = unless(part + kAbsorbParts * s >= steps, stored[s][e]);
      convert(stored[s], a[s]);
    }
  }

  __device__ static __forceinline__ void convert(const uint2 (&bytes)[4], unsigned (&halves)[4][4]) {
    for (int j = 0; j < 4; ++j) {
      const unsigned selector = j % 2 == 0 ? 0x5140 : 0x7362;
      for (int e = 0; e < 4; e += 2) {
        const unsigned biased = biased_bytes(j < 2 ? __byte_perm(bytes[e].x, bytes[e + 1].x, selector)
                                                   : __byte_perm(bytes[e].y, bytes[e + 1].y, selector));
        halves[j][e] = halves_of_low(biased), halves[j][e + 1] = halves_of_high(biased);
      }
    }
  }
  // Pairs of latents of one n become pairs of n of one latent.
  __device__ static __forceinline__ void convert(const uint4 (&stored)[4], unsigned (&halves)[4][4]) {
    for (int e = 0; e < 4; e += 2) {
      const unsigned first[4] = {stored[e].x, stored[e].y, stored[e].z, stored[e].w};
      const unsigned second[4] = {stored[e + 1].x, stored[e + 1].y, stored[e + 1].z, stored[e + 1].w};
      for (int j = 0; j < 4; ++j) {
        halves[j][e] = __byte_perm(first[j], second[j], 0x5410);
        halves[j][e + 1] = __byte_perm(first[j], second[j], 0x7632);
      }
    }
  }

  // q: of the lane's column, from n = 0 on; 8-byte aligned halves or 16-byte aligned floats. scales: of each n, in
  // shared memory, with bytes.
  template <class T>
  __device__ __forceinline__ void multiply(const T* q, const float* scales, float (&d)[4][4]) const {
    using Four = std::conditional_t<std::is_same_v<T, float>, float4, uint2>;
    Four fours[kAbsorbSteps];
#pragma unroll
    for (int s = 0; s < kAbsorbSteps; ++s) fours[s] = *reinterpret_cast<const Four*>(q + offset(s));
#pragma unroll
    for (int s = 0; s < kAbsorbSteps; ++s) {
      const float4 v = floats(fours[s]);
      float4 scale = make_float4(1, 1, 1, 1);
      if constexpr (kType == UpWeight::kByte) scale = *reinterpret_cast<const float4*>(scales + offset(s));
      const __half2 b0 = __floats2half2_rn(v.x * scale.x, v.y * scale.y);
      const __half2 b1 = __floats2half2_rn(v.z * scale.z, v.w * scale.w);
      for (int j = 0; j < 4; ++j) {
        mma_half(d[j], a[s][j][0], a[s][j][1], a[s][j][2], a[s][j][3], *reinterpret_cast<const unsigned*>(&b0),
                 *reinterpret_cast<const unsigned*>(&b1));
      }
    }
  }

  __device__ static __forceinline__ float4 floats(float4 v) {
    return v;
  }
  __device__ static __forceinline__ float4 floats(uint2 pairs) {
    const float2 low = __half22float2(*reinterpret_cast<const __half2*>(&pairs.x));
    const float2 high = __half22float2(*reinterpret_cast<const __half2*>(&pairs.y));
    return make_float4(low.x, low.y, high.x, high.y);
  }
};

// Four latents of a row: the sum of all parts times `factor`.
__device__ __forceinline__ uint2 add_absorb_parts(const float* sums, int part_floats, float factor) {
  float sum[4] = {};
  for (int p = 0; p < kAbsorbParts; ++p) {
    const float4 v = *reinterpret_cast<const float4*>(sums + p * part_floats);
    sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
  }
  const __half2 low = __floats2half2_rn(sum[0] * factor, sum[1] * factor);
  const __half2 high = __floats2half2_rn(sum[2] * factor, sum[3] * factor);
  return make_uint2(*reinterpret_cast<const unsigned*>(&low), *reinterpret_cast<const unsigned*>(&high));
}

// Query heads of some rows: head h of row r begins at data + r * row_stride + h * head_stride.
template <class T>
struct FewQueries {
  const T* data;
  long long row_stride;
  int head_stride;
};

// Waits for the previous kernel. Rows [begin, end) of one block of outputs, blockIdx.x of a grid of heads and blocks.
template <UpWeight kType, class T>
__device__ __forceinline__ void absorb_rows(const MlaUpProjection& up, const FewQueries<T>& q, int begin, int end,
                                            __half* out, int out_stride) {
  // [2][parts][kFewRows][kAbsorbOutputs + kFewPad], then the scales of the head's rows, [nope], with bytes.
  auto* const sums = dynamic_shared<float>();
  constexpr int kStride = kAbsorbOutputs + kFewPad, kPart = kFewRows * kStride;
  const int lane = static_cast<int>(threadIdx.x) % 32, part = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4, i = lane % 4, blocks = up.latent / kAbsorbOutputs;
  const int head = static_cast<int>(blockIdx.x) / blocks;
  const int first = static_cast<int>(blockIdx.x) % blocks * kAbsorbOutputs;
  const long long row0 = static_cast<long long>(head) * (up.nope + up.v);
  float* const scales = sums + kAbsorbSums;
  float normal = 1.0f;
  if constexpr (kType == UpWeight::kByte) {
    normal = scale_normalizer(up.scales + row0, up.nope);
    for (int n = static_cast<int>(threadIdx.x); n < up.nope; n += kFewThreads) scales[n] = up.scales[row0 + n] * normal;
  }
  AbsorbWeights<kType> weights;
  weights.load(up, row0, first, part, lane);
  if constexpr (kType == UpWeight::kByte) __syncthreads();  // the scales are there
  wait_with_weights(weights.a);
  let_next_kernel_start();

  const int row = static_cast<int>(threadIdx.x) / 16, column = static_cast<int>(threadIdx.x) % 16 * 4;
  for (int r0 = begin; r0 < end; r0 += kFewRows) {
    float d[4][4] = {};
    weights.multiply(q.data + min(r0 + g, end - 1) * q.row_stride + static_cast<long long>(head) * q.head_stride,
                     scales, d);
    float* const all = sums + (r0 - begin) / kFewRows % 2 * kAbsorbParts * kPart;
    float* const mine = all + part * kPart + 2 * i * kStride + 8 * g;
    for (int e = 0; e < 2; ++e) {
      auto* const to = reinterpret_cast<float4*>(mine + e * kStride);
      to[0] = make_float4(d[0][e], d[0][e + 2], d[1][e], d[1][e + 2]);
      to[1] = make_float4(d[2][e], d[2][e + 2], d[3][e], d[3][e + 2]);
    }
    __syncthreads();
    if (r0 + row >= end) continue;
    const long long query = static_cast<long long>(r0 + row) * up.heads + head;
    *reinterpret_cast<uint2*>(out + query * out_stride + first + column) =
        add_absorb_parts(all + row * kStride + column, kPart, 1.0f / normal);
  }
}

// A part of the sums of 16 values: latents in chunks of 64, part, part + kParts ... Lane (g, i) has values g and g + 8,
// latents 16 i .. 16 i + 15 of a chunk: four of them in each of four instructions, in an order that the other operand
// shares.
template <UpWeight kType, int kChunks, int kParts>
struct UnfoldWeights {
  static constexpr int kQuads = up_weight_bytes(kType);  // that 16 weights are stored as
  unsigned a[kChunks][4][4];
  int offset[kChunks];  // of the lane's latents

  // first: the first of the values, of v.
  __device__ __forceinline__ void load(const MlaUpProjection& up, int head, int first, int part, int lane) {
    const int row = min(first, up.v - 16) + lane / 4, chunks = up.latent / 64;
    const auto* const weights =
        static_cast<const unsigned char*>(up.weights) +
        (static_cast<long long>(head) * (up.nope + up.v) + up.nope + row) * up.latent * up_weight_bytes(kType);
    uint4 stored[kChunks][2][kQuads];
#pragma unroll
    for (int s = 0; s < kChunks; ++s) {
      offset[s] = 64 * min(part + kParts * s, chunks - 1) + 16 * (lane % 4);
      for (int r = 0; r < 2; ++r) {
        const auto* const from =
            reinterpret_cast<const uint4*>(weights + (8 * r * up.latent + offset[s]) * up_weight_bytes(kType));
        for (int q = 0; q < kQuads; ++q) stored[s][r][q] = from[q];
      }
    }
#pragma unroll
    for (int s = 0; s < kChunks; ++s) {
      for (int r = 0; r < 2; ++r) {
        for (int q = 0; q < kQuads; ++q) {
          const uint4 v = unless(part + kParts * s >= chunks, stored[s][r][q]);
          const unsigned words[4] = {v.x, v.y, v.z, v.w};
          if constexpr (kType == UpWeight::kByte) {
            for (int e = 0; e < 4; ++e) {
              const unsigned biased = biased_bytes(words[e]);
              a[s][e][r] = halves_of_low(biased), a[s][e][r + 2] = halves_of_high(biased);
            }
          } else {
            for (int e = 0; e < 2; ++e) a[s][2 * q + e][r] = words[2 * e], a[s][2 * q + e][r + 2] = words[2 * e + 1];
          }
        }
      }
    }
  }

  // x: of the lane's column, from latent 0 on.
  __device__ __forceinline__ void multiply(const __half* x, float (&d)[4]) const {
    uint4 pairs[kChunks][2];
#pragma unroll
    for (int s = 0; s < kChunks; ++s) {
      for (int half = 0; half < 2; ++half) pairs[s][half] = *reinterpret_cast<const uint4*>(x + offset[s] + 8 * half);
    }
#pragma unroll
    for (int s = 0; s < kChunks; ++s) {
      for (int e = 0; e < 4; ++e) {
        const uint4 v = pairs[s][e / 2];
        mma_half(d, a[s][e][0], a[s][e][1], a[s][e][2], a[s][e][3], e % 2 == 0 ? v.x : v.z, e % 2 == 0 ? v.y : v.w);
      }
    }
  }
};

}  // namespace fairway::kernels::cuda
