// Stands in for src/kernels/common/cuda/hopper.cuh: the same functions, by the definitions of PTX, on the emulator.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <deque>
#include <unordered_map>
#include <vector>

#include "codec/float8.h"
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

inline void prefetch_line(const void* p) {
  static_cast<void>(*static_cast<const volatile unsigned char*>(p));
}

// Registers of all matrices whose rows the lanes point to; kMatrices of them are used.
template <int kMatrices>
void load_matrices(unsigned (&d)[kMatrices], const void* row, bool transposed) {
  const auto mine = reinterpret_cast<std::uintptr_t>(row);
  const unsigned lane = threadIdx.x & 31;
  if (lane < 8 * kMatrices && mine % 16 != 0) emulator::fail("a matrix row that is not aligned to 16 bytes");
  const emulator::Lane* all = emulator::exchange(emulator::to_lane(mine));
  const auto element = [&](unsigned matrix, unsigned r, unsigned column) {
    const auto* from = reinterpret_cast<const std::uint16_t*>(emulator::from_lane<std::uintptr_t>(all[8 * matrix + r]));
    return static_cast<unsigned>(from[column]);
  };
  const unsigned outer = lane / 4, inner = lane % 4 * 2;
  for (unsigned i = 0; i < kMatrices; ++i) {
    d[i] = transposed ? element(i, inner, outer) | element(i, inner + 1, outer) << 16
                      : element(i, outer, inner) | element(i, outer, inner + 1) << 16;
  }
}
inline void load_matrices_x4(unsigned (&d)[4], const void* row) {
  load_matrices(d, row, false);
}
inline void load_matrices_x2(unsigned (&d)[2], const void* row) {
  load_matrices(d, row, false);
}
inline void load_matrices_transposed_x4(unsigned (&d)[4], const void* row) {
  load_matrices(d, row, true);
}
inline void load_matrices_transposed_x2(unsigned (&d)[2], const void* row) {
  load_matrices(d, row, true);
}

// A thread's copies happen when it waits for them, as late as a device may do them.
struct EmulatedCopy {
  void* to;
  const void* from;  // null: zeros
};
struct EmulatedCopies {
  std::vector<EmulatedCopy> open;
  std::deque<std::vector<EmulatedCopy>> groups;
};
inline EmulatedCopies& copies_of_this_thread() {
  static std::unordered_map<std::uintptr_t, EmulatedCopies> all;
  return all[reinterpret_cast<std::uintptr_t>(emulator::dynamic_shared()) + threadIdx.x];
}
inline void copy_async_16(void* to, const void* from, bool zeros) {
  if (((reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from)) & 15) != 0) {
    emulator::fail("an asynchronous copy that is not aligned to 16 bytes");
  }
  copies_of_this_thread().open.push_back({to, zeros ? nullptr : from});
}
inline void copy_async_commit() {
  EmulatedCopies& copies = copies_of_this_thread();
  copies.groups.push_back(std::move(copies.open));
  copies.open.clear();
}
template <int kGroups>
void copy_async_wait() {
  EmulatedCopies& copies = copies_of_this_thread();
  while (copies.groups.size() > kGroups) {
    for (const EmulatedCopy& copy : copies.groups.front()) {
      if (copy.from != nullptr) {
        std::memcpy(copy.to, copy.from, 16);
      } else {
        std::memset(copy.to, 0, 16);
      }
    }
    copies.groups.pop_front();
  }
}

inline unsigned halves_from_e4m3(unsigned pair) {
  const auto half_bits = [](unsigned byte) {
    return static_cast<unsigned>(__half_as_ushort(__half(codec::float_from_e4m3(static_cast<std::uint8_t>(byte)))));
  };
  return half_bits(pair & 255) | half_bits(pair >> 8 & 255) << 16;
}

template <class T>
T* in_cluster(T* p, int rank) {
  const auto offset = reinterpret_cast<unsigned char*>(p) - emulator::dynamic_shared();
  return reinterpret_cast<T*>(emulator::dynamic_shared_of(rank) + offset);
}
template <class T>
void send_to_cluster(T* to, std::uint64_t* bar, int rank, T v) {
  static_assert(sizeof v == 4 || sizeof v == 16);
  if (reinterpret_cast<std::uintptr_t>(to) % sizeof v != 0) emulator::fail("a misaligned store to another CTA");
  *in_cluster(to, rank) = v;
  EmulatedBarrier& barrier = barrier_at(in_cluster(bar, rank));
  barrier.bytes -= static_cast<std::int32_t>(sizeof v);
  settle(barrier);
}
inline void barrier_wait_cluster(std::uint64_t* p, int parity) {
  barrier_wait(p, parity);
}

template <int kRegisters>
void give_registers() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  emulator::exchange({});
}
template <int kRegisters>
void take_registers() {
  give_registers<kRegisters>();
}

inline void cluster_meet() {
  emulator::cluster_sync();
}

inline void cluster_arrive() {
  emulator::cluster_arrive();
}
inline void cluster_wait() {
  emulator::cluster_wait();
}

inline void check_word(const unsigned* word) {
  if (word == nullptr || reinterpret_cast<std::uintptr_t>(word) % sizeof(unsigned) != 0) {
    emulator::fail("a word that is not aligned");
  }
}
inline void store_release(unsigned* word, unsigned value) {
  check_word(word);
  *word = value;
  emulator::progress();
}
inline unsigned load_acquire(const unsigned* word) {
  check_word(word);
  return *word;
}
inline void wait_for_value(const unsigned* word, unsigned value) {
  while (load_acquire(word) != value) emulator::give_way();
  emulator::progress();
}

inline long long cycle_counter() {
  static long long calls = 0;
  return ++calls;
}
inline long long device_nanoseconds() {
  return cycle_counter();
}

}  // namespace fairway::kernels::cuda
