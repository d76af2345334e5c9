// Logits as integers of the same order, the place of the best one as one number, and where a choice is noted.
#pragma once

#include <cuda_runtime.h>

namespace fairway::kernels::cuda {

// NaN as -infinity, -0 as 0. Above 0 for every float.
__device__ __forceinline__ unsigned ordered(float v) {
  const unsigned bits = __float_as_uint(v == v ? v + 0.0f : __uint_as_float(0xFF800000u));
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float from_ordered(unsigned key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7FFFFFFFu : ~key);
}

// A logit and its id, below kMostLogits. As a double, greater for greater logits and for lower ids of equal ones;
// exact, and above 0.
struct LogitPlace {
  unsigned key;  // ordered()
  int id;
};
constexpr int kMostLogits = 1 << 21;  // with the 32 bits of a key as many as a double holds

__device__ __forceinline__ double logit_place(unsigned key, int id) {
  return static_cast<double>(key) * kMostLogits + (kMostLogits - 1 - id);
}
__device__ __forceinline__ LogitPlace logit_place_of(double place) {
  const auto bits = static_cast<unsigned long long>(place);
  return {static_cast<unsigned>(bits / kMostLogits), kMostLogits - 1 - static_cast<int>(bits % kMostLogits)};
}

// See GreedyCall.
__device__ __forceinline__ void store_choice(int id, int r, int* ids, int* position, int* history, int history_stride) {
  ids[r] = id;
  if (position == nullptr) return;
  const int next = position[r] + 1;
  position[r] = next;
  if (history != nullptr && next >= 0) history[static_cast<long long>(r) * history_stride + next % history_stride] = id;
}

}  // namespace fairway::kernels::cuda
