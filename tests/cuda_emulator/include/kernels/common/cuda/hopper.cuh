// Stands in for src/kernels/common/cuda/hopper.cuh: the same functions, by the definitions of PTX, on the emulator.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "cuda_fp16.h"

namespace fairway::kernels::cuda {

namespace emulator = cuda_emulator;

template <class T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(emulator::dynamic_shared());
}

// A barrier in shared memory: arrivals and bytes that are still to come in the present phase.
struct EmulatedBarrier {
  std::int32_t bytes;
  std::int8_t phase, pending, arrivals, magic;
};
static_assert(sizeof(EmulatedBarrier) == sizeof(std::uint64_t));
constexpr std::int8_t kBarrierMagic = 77;

inline EmulatedBarrier& barrier_at(std::uint64_t* p) {
  auto& barrier = *reinterpret_cast<EmulatedBarrier*>(p);
  if (barrier.magic != kBarrierMagic) emulator::fail("a barrier that was not initialised");
  return barrier;
}
inline void settle(EmulatedBarrier& barrier) {
  if (barrier.pending < 0) emulator::fail("more arrivals at a barrier than it expects");
  if (barrier.pending > 0 || barrier.bytes != 0) return;
  barrier.phase ^= 1;
  barrier.pending = barrier.arrivals;
  emulator::progress();
}
inline void barrier_init(std::uint64_t* p, int arrivals) {
  const auto count = static_cast<std::int8_t>(arrivals);
  *reinterpret_cast<EmulatedBarrier*>(p) = {0, 0, count, count, kBarrierMagic};
}
inline void barrier_init_fence() {}
inline void barrier_arrive(std::uint64_t* p) {
  EmulatedBarrier& barrier = barrier_at(p);
  --barrier.pending;
  settle(barrier);
}
inline void barrier_expect(std::uint64_t* p, int bytes) {
  EmulatedBarrier& barrier = barrier_at(p);
  barrier.bytes += bytes;
  --barrier.pending;
  settle(barrier);
}
inline void barrier_wait(std::uint64_t* p, int parity) {
  while (barrier_at(p).phase == parity) emulator::give_way();
  emulator::progress();
}

inline void bulk_load(void* to, const void* from, int bytes, std::uint64_t* p) {
  if (((reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from) | static_cast<unsigned>(bytes)) &
       15) != 0) {
    emulator::fail("a bulk copy that is not aligned to 16 bytes");
  }
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
  EmulatedBarrier& barrier = barrier_at(p);
  barrier.bytes -= bytes;
  settle(barrier);
}

inline void wait_for_previous_kernel() {}
inline void let_next_kernel_start() {}

template <int kThreads>
void consumer_sync() {
  emulator::named_sync(1, kThreads);
}

template <int kShift>
unsigned multiply_by_power(unsigned v) {
  return v << kShift;
}

// Of the operands of m16n8kX: A element (row, k) is in lane row % 8 * 4 + quad, register (row >= 8) + 2 * half, and so
// on as the PTX manual has it; a register holds 32 / bits elements along K.
inline void mma_u8s8(int (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  const emulator::Lane* all = emulator::exchange({{a0, a1, a2, a3, b0, b1}});
  const unsigned lane = threadIdx.x & 31, group = lane / 4, quad = lane % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row_half = i / 2, column = 2 * quad + i % 2;
    for (unsigned k = 0; k < 8; ++k) {
      const unsigned a = all[group * 4 + k % 4].values[row_half + 2 * (k / 4)];
      const unsigned b = all[column * 4 + k % 4].values[4 + k / 4];
      for (unsigned byte = 0; byte < 32; byte += 8) {
        d[i] += static_cast<int>(a >> byte & 255) * static_cast<std::int8_t>(b >> byte);
      }
    }
  }
}

inline float half_of(unsigned pair, unsigned which) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(pair >> (16 * which))));
}

inline void mma_half(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  const emulator::Lane* all = emulator::exchange({{a0, a1, a2, a3, b0, b1}});
  const unsigned lane = threadIdx.x & 31, group = lane / 4, quad = lane % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row_half = i / 2, column = 2 * quad + i % 2;
    float sum = 0;
    for (unsigned k = 0; k < 8; ++k) {
      const unsigned a = all[group * 4 + k % 4].values[row_half + 2 * (k / 4)];
      const unsigned b = all[column * 4 + k % 4].values[4 + k / 4];
      sum += half_of(a, 0) * half_of(b, 0) + half_of(a, 1) * half_of(b, 1);
    }
    d[i] += sum;
  }
}

}  // namespace fairway::kernels::cuda
