// What nvcc gives to device code without a header, for a host compiler: see ../emulator.h.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda_runtime_api.h"

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __grid_constant__
#define __align__(bytes)

struct int2 {
  int x, y;
};
struct int4 {
  int x, y, z, w;
};
struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
inline int2 make_int2(int x, int y) {
  return {x, y};
}
inline int4 make_int4(int x, int y, int z, int w) {
  return {x, y, z, w};
}
inline uint2 make_uint2(unsigned x, unsigned y) {
  return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}

extern uint3 threadIdx, blockIdx;
extern dim3 gridDim, blockDim;

#include "../emulator.h"

using std::max;
using std::min;

inline void __syncthreads() {
  fairway::cuda_emulator::block_sync();
}
inline void __syncwarp(unsigned = 0xFFFFFFFFu) {
  fairway::cuda_emulator::exchange({});
}
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace fairway::cuda_emulator {
template <class T>
Lane to_lane(const T& value) {
  static_assert(sizeof(T) <= sizeof(Lane));
  Lane lane{};
  std::memcpy(lane.values, &value, sizeof value);
  return lane;
}
template <class T>
T from_lane(const Lane& lane) {
  T value;
  std::memcpy(&value, lane.values, sizeof value);
  return value;
}
}  // namespace fairway::cuda_emulator

// All lanes of the warp take part, whatever the mask says.
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  namespace emulator = fairway::cuda_emulator;
  return emulator::from_lane<T>(emulator::exchange(emulator::to_lane(value))[lane & 31]);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
  return __shfl_sync(mask, value, static_cast<int>(threadIdx.x & 31) ^ distance);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance) {
  const int lane = static_cast<int>(threadIdx.x & 31), from = lane - static_cast<int>(distance);
  return __shfl_sync(mask, value, from < 0 ? lane : from);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance) {
  const int lane = static_cast<int>(threadIdx.x & 31), from = lane + static_cast<int>(distance);
  return __shfl_sync(mask, value, from > 31 ? lane : from);
}
template <class T>
unsigned __match_any_sync(unsigned, T value) {
  const auto mine = fairway::cuda_emulator::to_lane(value);
  const auto* all = fairway::cuda_emulator::exchange(mine);
  unsigned same = 0;
  for (unsigned i = 0; i < 32; ++i) {
    if (std::memcmp(all[i].values, mine.values, sizeof mine.values) == 0) same |= 1u << i;
  }
  return same;
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  const auto* all = fairway::cuda_emulator::exchange(fairway::cuda_emulator::to_lane(predicate));
  unsigned votes = 0;
  for (unsigned i = 0; i < 32; ++i) votes |= static_cast<unsigned>(all[i].values[0] != 0) << i;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == 0xFFFFFFFFu;
}
inline int __reduce_add_sync(unsigned, int value) {
  const auto* all = fairway::cuda_emulator::exchange(fairway::cuda_emulator::to_lane(value));
  int sum = 0;
  for (int i = 0; i < 32; ++i) sum += fairway::cuda_emulator::from_lane<int>(all[i]);
  return sum;
}
inline int __reduce_max_sync(unsigned, int value) {
  const auto* all = fairway::cuda_emulator::exchange(fairway::cuda_emulator::to_lane(value));
  int largest = fairway::cuda_emulator::from_lane<int>(all[0]);
  for (int i = 1; i < 32; ++i) largest = std::max(largest, fairway::cuda_emulator::from_lane<int>(all[i]));
  return largest;
}

inline int __popc(unsigned v) {
  return std::popcount(v);
}
inline int __ffs(unsigned v) {
  return v == 0 ? 0 : std::countr_zero(v) + 1;
}
inline int __clz(int v) {
  return std::countl_zero(static_cast<unsigned>(v));
}
inline int __float_as_int(float v) {
  return std::bit_cast<int>(v);
}
inline float __int_as_float(int v) {
  return std::bit_cast<float>(v);
}
inline unsigned __float_as_uint(float v) {
  return std::bit_cast<unsigned>(v);
}
inline float __uint_as_float(unsigned v) {
  return std::bit_cast<float>(v);
}
inline int __double2loint(double v) {
  return static_cast<int>(std::bit_cast<std::uint64_t>(v));
}
inline double __hiloint2double(int high, int low) {
  return std::bit_cast<double>(std::uint64_t{static_cast<unsigned>(high)} << 32 | static_cast<unsigned>(low));
}
inline int __float2int_rn(float v) {
  return static_cast<int>(std::nearbyintf(v));
}
inline float __expf(float v) {
  return std::exp(v);
}
inline float __logf(float v) {
  return std::log(v);
}
inline float rsqrtf(float v) {
  return 1.0f / std::sqrt(v);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
T atomicMax(T* p, T value) {
  const T old = *p;
  *p = std::max(old, value);
  return old;
}
template <class T>
T atomicAdd(T* p, T value) {
  const T old = *p;
  *p += value;
  return old;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 32; i += 8) c += (a >> i & 255) * (b >> i & 255);
  return c;
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += static_cast<std::int8_t>(a >> i) * static_cast<std::int8_t>(b >> i);
  return c;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const std::uint64_t bytes = std::uint64_t{b} << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned pick = selector >> (4 * i) & 15;
    if (pick & 8) fairway::cuda_emulator::fail("__byte_perm: sign replication is not emulated");
    result |= static_cast<unsigned>(bytes >> (8 * pick) & 255) << (8 * i);
  }
  return result;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((std::uint64_t{high} << 32 | low) >> (shift & 31));
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(std::uint64_t{a} * b >> 32);
}
