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
#include "kernels/common/cuda/gpu_features.h"

namespace fairway::kernels::cuda {

namespace emulator = cuda_emulator;

// Every way of a kernel is in this code, and the device that the host sees takes its own.
#define FAIRWAY_CODE_HAS_CLUSTERS 1
constexpr bool kCodeHasClusters = true, kCodeHasWgmma = true;
inline bool code_has_clusters() {
  return gpu_features().clusters;
}
inline void need_clusters() {
  if (!code_has_clusters()) emulator::fail("an instruction that generations before 9.0 do not have");
}
inline void not_for_this_code() {
  emulator::fail("a kernel that this GPU does not have");
}

template <class T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(emulator::dynamic_shared());
}

// A barrier in shared memory: arrivals and bytes that are still to come in the present phase.
struct EmulatedBarrier {
  std::int32_t bytes;
  std::int32_t pending : 12;
  std::uint32_t arrivals : 11, phase : 1, magic : 8;
};
static_assert(sizeof(EmulatedBarrier) == sizeof(std::uint64_t));
constexpr std::uint32_t kBarrierMagic = 77;

inline EmulatedBarrier& barrier_at(std::uint64_t* p) {
  auto& barrier = *reinterpret_cast<EmulatedBarrier*>(p);
  if (barrier.magic != kBarrierMagic) emulator::fail("a barrier that was not initialised");
  return barrier;
}
inline void settle(EmulatedBarrier& barrier) {
  if (barrier.pending < 0) emulator::fail("more arrivals at a barrier than it expects");
  if (barrier.pending > 0 || barrier.bytes != 0) return;
  barrier.phase ^= 1;
  barrier.pending = static_cast<std::int32_t>(barrier.arrivals);
  emulator::progress();
}
inline void barrier_init(std::uint64_t* p, int arrivals) {
  if (arrivals < 1 || arrivals > 1024) emulator::fail("a barrier for more arrivals than a CTA has threads");
  auto& barrier = *reinterpret_cast<EmulatedBarrier*>(p);
  barrier = {};
  barrier.pending = arrivals;
  barrier.arrivals = static_cast<std::uint32_t>(arrivals);
  barrier.magic = kBarrierMagic;
}
inline void barrier_init_fence() {}
inline void barrier_arrive(std::uint64_t* p) {
  EmulatedBarrier& barrier = barrier_at(p);
  --barrier.pending;
  settle(barrier);
}
inline void barrier_expect(std::uint64_t* p, int bytes) {
  need_clusters();
  EmulatedBarrier& barrier = barrier_at(p);
  barrier.bytes += bytes;
  --barrier.pending;
  settle(barrier);
}
inline void barrier_wait(std::uint64_t* p, int parity) {
  while (static_cast<int>(barrier_at(p).phase) == parity) emulator::give_way();
  emulator::progress();
}

inline void bulk_load(void* to, const void* from, int bytes, std::uint64_t* p) {
  need_clusters();
  if (((reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from) | static_cast<unsigned>(bytes)) &
       15) != 0) {
    emulator::fail("a bulk copy that is not aligned to 16 bytes");
  }
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
  EmulatedBarrier& barrier = barrier_at(p);
  barrier.bytes -= bytes;
  settle(barrier);
}

inline void bulk_load_once(void* to, const void* from, int bytes, std::uint64_t* p) {
  bulk_load(to, from, bytes, p);
}
inline bool elected() {
  return (threadIdx.x & 31) == 0;
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
  std::size_t bytes = 16;
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
        std::memcpy(copy.to, copy.from, copy.bytes);
      } else {
        std::memset(copy.to, 0, copy.bytes);
      }
    }
    copies.groups.pop_front();
  }
}

// This thread's copies happen, then it arrives.
inline void copy_async_arrive(std::uint64_t* bar) {
  copy_async_commit();
  copy_async_wait<0>();
  barrier_arrive(bar);
}

inline unsigned halves_from_e4m3(unsigned pair) {
  const auto half_bits = [](unsigned byte) {
    return static_cast<unsigned>(__half_as_ushort(__half(codec::float_from_e4m3(static_cast<std::uint8_t>(byte)))));
  };
  return half_bits(pair & 255) | half_bits(pair >> 8 & 255) << 16;
}
inline uint2 four_halves_from_e4m3(unsigned four) {
  return make_uint2(halves_from_e4m3(four & 0xFFFFu), halves_from_e4m3(four >> 16));
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
  need_clusters();
  emulator::cluster_sync();
}

inline void cluster_arrive() {
  need_clusters();
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

inline void wait_until_reached(const unsigned* word, unsigned value) {
  while (static_cast<int>(load_acquire(word) - value) < 0) emulator::give_way();
  emulator::progress();
}

inline long long cycle_counter() {
  static long long calls = 0;
  return ++calls;
}
inline long long device_nanoseconds() {
  return cycle_counter();
}

// Tensor instructions of four warps happen when a thread waits for them, as late as a device may do them: rows that
// were overwritten too early give wrong sums, and weights that were overwritten too early are noticed.
constexpr int kWgmmaSums = 64;
constexpr unsigned kSwizzledRowsUpper = 1u << 30 | 1024 >> 4;
constexpr unsigned kWgmmaNextColumns = 32 >> 4;

struct EmulatedWgmma {
  float* d;
  const unsigned* a;    // this thread's registers, and
  unsigned given[4];    // what they held
  unsigned rows[4][4];  // [quad][register]: the two rows of a that this thread multiplies
  std::uint64_t matrix;
  int columns;
  std::uint64_t a_matrix = 0;  // if a is in shared memory: then there are no registers
  bool a_transposed = false;
};
struct EmulatedWgmmas {
  std::vector<EmulatedWgmma> open;
  std::deque<std::vector<EmulatedWgmma>> groups;
  bool fenced = false;
};
inline EmulatedWgmmas& wgmmas_of_this_thread() {
  static std::unordered_map<std::uintptr_t, EmulatedWgmmas> all;
  return all[reinterpret_cast<std::uintptr_t>(emulator::dynamic_shared()) + threadIdx.x];
}

inline unsigned swizzled_rows(const void* rows) {
  const auto offset = static_cast<unsigned>(static_cast<const unsigned char*>(rows) - emulator::dynamic_shared());
  return (offset >> 4 & 0x3FFF) | 1u << 16;
}

// Element (k, column) of a K-major matrix, by its descriptor.
inline float wgmma_element(std::uint64_t matrix, unsigned k, unsigned column) {
  const auto start = static_cast<unsigned>(matrix & 0x3FFF) << 4;
  const auto eight_rows = static_cast<unsigned>(matrix >> 32 & 0x3FFF) << 4;
  if (matrix >> 62 != 1 || (matrix >> 49 & 7) != 0) emulator::fail("a matrix descriptor without 128-byte swizzle");
  if (start % 1024 > 96) emulator::fail("a matrix that does not begin at a multiple of 1024 bytes");
  unsigned at = start + column / 8 * eight_rows + column % 8 * 128 + 2 * k;
  at ^= (at >> 7 & 7) << 4;
  std::uint16_t bits;
  std::memcpy(&bits, emulator::dynamic_shared() + at, sizeof bits);
  return __half2float(__ushort_as_half(bits));
}

// Both operands from shared memory. Row m of a transposed operand is column m of its matrix.
inline void run_wgmma_of_shared(const EmulatedWgmma& m) {
  const unsigned group = (threadIdx.x & 31) / 4, quad = threadIdx.x % 4, warp = threadIdx.x / 32 % 4;
  for (unsigned j = 0; j < static_cast<unsigned>(m.columns) / 8; ++j) {
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = 16 * warp + group + i / 2 * 8, column = 8 * j + 2 * quad + i % 2;
      float sum = 0;
      for (unsigned k = 0; k < 16; ++k) {
        const float a = m.a_transposed ? wgmma_element(m.a_matrix, row, k) : wgmma_element(m.a_matrix, k, row);
        sum += a * wgmma_element(m.matrix, k, column);
      }
      m.d[4 * j + i] += sum;
    }
  }
}

inline void wgmma_fence() {
  if (!gpu_features().wgmma) emulator::fail("a tensor instruction of four warps on a GPU without them");
  emulator::exchange({});
  wgmmas_of_this_thread().fenced = true;
}
inline void wgmma_commit() {
  EmulatedWgmmas& mine = wgmmas_of_this_thread();
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
  mine.fenced = false;
}

inline void run_wgmma(const EmulatedWgmma& m) {
  if (m.a == nullptr) {
    run_wgmma_of_shared(m);
    return;
  }
  if (std::memcmp(m.a, m.given, sizeof m.given) != 0) emulator::fail("weights overwritten before their wgmma was done");
  const unsigned quad = threadIdx.x % 4;
  for (unsigned j = 0; j < static_cast<unsigned>(m.columns) / 8; ++j) {
    for (unsigned c = 0; c < 2; ++c) {
      float b[16];
      for (unsigned k = 0; k < 16; ++k) b[k] = wgmma_element(m.matrix, k, 8 * j + 2 * quad + c);
      for (unsigned row_half = 0; row_half < 2; ++row_half) {
        float sum = 0;
        for (unsigned k = 0; k < 16; ++k) sum += half_of(m.rows[k % 8 / 2][row_half + 2 * (k / 8)], k % 2) * b[k];
        m.d[4 * j + 2 * row_half + c] += sum;
      }
    }
  }
}
template <int kGroups>
void wgmma_wait() {
  EmulatedWgmmas& mine = wgmmas_of_this_thread();
  emulator::exchange({});
  while (mine.groups.size() > kGroups) {
    for (const EmulatedWgmma& m : mine.groups.front()) run_wgmma(m);
    mine.groups.pop_front();
  }
}
inline void wgmma_settle(float (&)[kWgmmaSums]) {
  EmulatedWgmmas& mine = wgmmas_of_this_thread();
  if (!mine.open.empty() || !mine.groups.empty()) emulator::fail("sums are used before their wgmma was done");
}

template <int kColumns>
void wgmma_half(float (&d)[kWgmmaSums], const unsigned (&a)[4], unsigned rows) {
  static_assert(kColumns % 8 == 0 && kColumns / 2 <= kWgmmaSums);
  EmulatedWgmmas& mine = wgmmas_of_this_thread();
  if (!mine.fenced) emulator::fail("a wgmma without a fence before its group");
  const emulator::Lane* all = emulator::exchange({{a[0], a[1], a[2], a[3]}});
  EmulatedWgmma m{d, a, {a[0], a[1], a[2], a[3]}, {}, std::uint64_t{kSwizzledRowsUpper} << 32 | rows, kColumns};
  const unsigned group = (threadIdx.x & 31) / 4;
  for (unsigned quad = 0; quad < 4; ++quad) {
    for (unsigned i = 0; i < 4; ++i) m.rows[quad][i] = all[group * 4 + quad].values[i];
  }
  mine.open.push_back(m);
}

inline void store_matrices_transposed_x2(void* row, const unsigned (&d)[2]) {
  const auto mine = reinterpret_cast<std::uintptr_t>(row);
  const unsigned lane = threadIdx.x & 31;
  if (lane < 16 && mine % 16 != 0) emulator::fail("a matrix row that is not aligned to 16 bytes");
  const emulator::Lane* all = emulator::exchange(emulator::to_lane(mine));
  for (unsigned i = 0; i < 2; ++i) {
    for (unsigned e = 0; e < 2; ++e) {
      auto* to = reinterpret_cast<std::uint16_t*>(emulator::from_lane<std::uintptr_t>(all[8 * i + lane % 4 * 2 + e]));
      to[lane / 4] = static_cast<std::uint16_t>(d[i] >> (16 * e));
    }
  }
}

inline void check_numbered(const uint4* word) {
  if (reinterpret_cast<std::uintptr_t>(word) % 16 != 0)
    emulator::fail("numbered floats that are not aligned to 16 bytes");
}
inline void store_numbered(uint4* to, float a, float b, unsigned number) {
  check_numbered(to);
  *to = make_uint4(__float_as_uint(a), number, __float_as_uint(b), number);
  emulator::progress();
}
inline void store_numbered_word(uint4* to, int which, unsigned value, unsigned number) {
  check_numbered(to);
  (which == 0 ? to->x : to->z) = value;
  (which == 0 ? to->y : to->w) = number;
  emulator::progress();
}
inline uint4 load_numbered(const uint4* from) {
  check_numbered(from);
  return *from;
}
inline void pause_nanoseconds(unsigned) {}
inline void poll_again(int) {
  emulator::give_way();
}

// Stores are visible to everything here.
inline void fence_for_wgmma() {}

constexpr unsigned kWgmmaNextRows = 16 * 128 >> 4;
template <bool kTransposed>
void wgmma_half_24(float (&d)[3][4], unsigned a, unsigned b) {
  EmulatedWgmmas& mine = wgmmas_of_this_thread();
  if (!mine.fenced) emulator::fail("a wgmma without a fence before its group");
  emulator::exchange({});
  const auto upper = std::uint64_t{kSwizzledRowsUpper} << 32;
  mine.open.push_back({&d[0][0], nullptr, {}, {}, upper | b, 24, upper | a, kTransposed});
}
inline void wgmma_settle(float (&)[3][4]) {
  const EmulatedWgmmas& mine = wgmmas_of_this_thread();
  if (!mine.open.empty() || !mine.groups.empty()) emulator::fail("sums are used before their wgmma was done");
}

template <int kGroup, int kThreads>
void group_sync() {
  emulator::named_sync(2 + kGroup, kThreads);
}

inline float power_of_two(float v) {
  return v < -126.0f ? 0.0f : std::exp2(v);
}

inline double reciprocal_about(double v) {
  return static_cast<float>(1.0 / v);
}

inline void store_shared_floats(float4* to, float4 v) {
  check_numbered(reinterpret_cast<const uint4*>(to));
  *to = v;
  emulator::progress();
}
inline float4 load_shared_floats(const float4* from) {
  check_numbered(reinterpret_cast<const uint4*>(from));
  return *from;
}

}  // namespace fairway::kernels::cuda
