// Eight neighbouring elements of a row in one thread's registers: the unit in which the small kernels read and write.
//
// kAligned: the row begins at a multiple of 16 bytes and has a multiple of 8 elements, so that a chunk is read whole or
// not at all. Otherwise elements are read one by one and need only the alignment of their halves.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "kernels/common/matrix.h"

namespace fairway::kernels::cuda {

constexpr int kChunk = 8;

constexpr float kLargestHalf = 65504.0f;

// Saturates; NaN stays NaN.
__device__ __forceinline__ __half saturated_half(float v) {
  v = v > kLargestHalf ? kLargestHalf : v;
  v = v < -kLargestHalf ? -kLargestHalf : v;
  return __float2half_rn(v);
}

// p: of the chunk; valid: elements that exist, any number. Others read as zero.
template <bool kAligned>
__device__ __forceinline__ void load_floats(const float* p, int valid, float (&v)[kChunk]) {
  if constexpr (kAligned) {
    float4 a = make_float4(0, 0, 0, 0), b = a;
    if (valid > 0) {
      a = reinterpret_cast<const float4*>(p)[0];
      b = reinterpret_cast<const float4*>(p)[1];
    }
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) v[i] = i < valid ? p[i] : 0.0f;
  }
}

template <bool kAligned>
__device__ __forceinline__ void store_floats(float* p, int valid, const float (&v)[kChunk]) {
  if constexpr (kAligned) {
    if (valid <= 0) return;
    reinterpret_cast<float4*>(p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    reinterpret_cast<float4*>(p)[1] = make_float4(v[4], v[5], v[6], v[7]);
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (i < valid) p[i] = v[i];
    }
  }
}

// Saturating.
template <bool kAligned>
__device__ __forceinline__ void store_halves(__half* p, int valid, const float (&v)[kChunk]) {
  if constexpr (kAligned) {
    if (valid <= 0) return;
    unsigned words[kChunk / 2];
#pragma unroll
    for (int i = 0; i < kChunk / 2; ++i) {
      words[i] = __half_as_ushort(saturated_half(v[2 * i])) |
                 static_cast<unsigned>(__half_as_ushort(saturated_half(v[2 * i + 1]))) << 16;
    }
    *reinterpret_cast<uint4*>(p) = make_uint4(words[0], words[1], words[2], words[3]);
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (i < valid) p[i] = saturated_half(v[i]);
    }
  }
}

// A chunk of a stored matrix as it lies in memory: what is prefetched.
template <DenseType kType, bool kAligned>
struct DenseChunk {
  static constexpr int kWords = kType == DenseType::kF32 ? kChunk : kChunk / 2;
  static constexpr int kElementBytes = kType == DenseType::kF32 ? 4 : 2;
  unsigned words[kWords];

  // index: of the chunk's first element in the matrix.
  __device__ __forceinline__ void load(const void* matrix, long long index, int valid) {
    const auto* p = static_cast<const unsigned char*>(matrix) + index * kElementBytes;
    if constexpr (kAligned) {
      uint4 quads[kWords / 4] = {};
      if (valid > 0) {
#pragma unroll
        for (int i = 0; i < kWords / 4; ++i) quads[i] = reinterpret_cast<const uint4*>(p)[i];
      }
#pragma unroll
      for (int i = 0; i < kWords / 4; ++i) {
        words[4 * i] = quads[i].x, words[4 * i + 1] = quads[i].y;
        words[4 * i + 2] = quads[i].z, words[4 * i + 3] = quads[i].w;
      }
    } else {
      constexpr int kElementsPerWord = kChunk / kWords;
      const auto* halves = reinterpret_cast<const unsigned short*>(p);
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        const bool low = i * kElementsPerWord < valid;
        const bool high = i * kElementsPerWord + kElementsPerWord - 1 < valid;
        words[i] = (low ? halves[2 * i] : 0u) | (high ? static_cast<unsigned>(halves[2 * i + 1]) << 16 : 0u);
      }
    }
  }

  __device__ __forceinline__ void unpack(float (&v)[kChunk]) const {
    if constexpr (kType == DenseType::kF32) {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) v[i] = __uint_as_float(words[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        if constexpr (kType == DenseType::kBf16) {
          v[2 * i] = __uint_as_float(words[i] << 16);
          v[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
        } else {
          v[2 * i] = __half2float(__ushort_as_half(static_cast<unsigned short>(words[i] & 0xFFFFu)));
          v[2 * i + 1] = __half2float(__ushort_as_half(static_cast<unsigned short>(words[i] >> 16)));
        }
      }
    }
  }
};

// Calls f with the type as a constant.
template <class F>
auto with_dense_type(DenseType type, F&& f) {
  switch (type) {
    case DenseType::kF16:
      return f(std::integral_constant<DenseType, DenseType::kF16>{});
    case DenseType::kBf16:
      return f(std::integral_constant<DenseType, DenseType::kBf16>{});
    case DenseType::kF32:
      break;
  }
  return f(std::integral_constant<DenseType, DenseType::kF32>{});
}

// Null counts as aligned.
inline bool is_aligned(const void* p, int bytes = 16) {
  return reinterpret_cast<std::uintptr_t>(p) % static_cast<unsigned>(bytes) == 0;
}

}  // namespace fairway::kernels::cuda
