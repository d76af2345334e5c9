// The instructions that C++ does not reach, one function each: barriers in shared memory, bulk copies, chained
// launches, named barriers, tensor instructions. No other file has assembly, so that this one can be replaced to run
// the kernels on a host.
//
// Code is compiled for generations 8.0 and later. Where one lacks an instruction, its function does the same by others,
// or is nothing, or ends the launch with a fault: then the host, which knows by gpu_features(), does not choose the
// kernels that come there.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fairway::kernels::cuda {

// What this code can do, as GpuFeatures: for kernels that are nothing without it.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define FAIRWAY_CODE_HAS_CLUSTERS 1
#else
#define FAIRWAY_CODE_HAS_CLUSTERS 0
#endif
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FAIRWAY_CODE_HAS_WGMMA 1
#else
#define FAIRWAY_CODE_HAS_WGMMA 0
#endif
constexpr bool kCodeHasClusters = FAIRWAY_CODE_HAS_CLUSTERS != 0;
constexpr bool kCodeHasWgmma = FAIRWAY_CODE_HAS_WGMMA != 0;

// The same for kernels that have another way: a constant here, a switch in the emulator.
__device__ __forceinline__ constexpr bool code_has_clusters() {
  return kCodeHasClusters;
}

// For places that the host sees to that nobody comes to.
__device__ __forceinline__ void not_for_this_code() {
  __trap();
}

__device__ __forceinline__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void barrier_init(std::uint64_t* bar, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(arrivals) : "memory");
}
// For other CTAs of a cluster; those of its own CTA pass a barrier of the CTA.
__device__ __forceinline__ void barrier_init_fence() {
#if FAIRWAY_CODE_HAS_CLUSTERS
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
__device__ __forceinline__ void barrier_arrive(std::uint64_t* bar) {
#if FAIRWAY_CODE_HAS_CLUSTERS
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
#else
  asm volatile("{.reg .b64 state; mbarrier.arrive.shared.b64 state, [%0];}" ::"r"(shared_address(bar)) : "memory");
#endif
}
// Needs bulk copies, or clusters: what else would count the bytes?
__device__ __forceinline__ void barrier_expect(std::uint64_t* bar, int bytes) {
#if FAIRWAY_CODE_HAS_CLUSTERS
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes)
               : "memory");
#else
  not_for_this_code();
#endif
}
__device__ __forceinline__ void barrier_wait(std::uint64_t* bar, int parity) {
#if !FAIRWAY_CODE_HAS_CLUSTERS  // its wait does not sleep by itself
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n"
      "@done bra finished;\n"
      "nanosleep.u32 20;\n"
      "bra again;\n"
      "finished:\n"
      "}\n" ::"r"(shared_address(bar)),
      "r"(parity)
      : "memory");
#else
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra finished;\n"
      "bra again;\n"
      "finished:\n"
      "}\n" ::"r"(shared_address(bar)),
      "r"(parity)
      : "memory");
#endif
}

// Copies bytes (a multiple of 16, both addresses 16-byte aligned) and counts them on the barrier.
__device__ __forceinline__ void bulk_load(void* to, const void* from, int bytes, std::uint64_t* bar) {
#if FAIRWAY_CODE_HAS_CLUSTERS
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(bar))
               : "memory");
#else
  not_for_this_code();
#endif
}

// The same of bytes that are read once: they are the first to leave the second-level cache. A token's weights are far
// larger than that cache, and what is read again in the next layer is kernels' code, whose instructions come cold.
__device__ __forceinline__ void bulk_load_once(void* to, const void* from, int bytes, std::uint64_t* bar) {
#if FAIRWAY_CODE_HAS_CLUSTERS
  unsigned long long policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(bar)), "l"(policy)
      : "memory");
#else
  not_for_this_code();
#endif
}

// True in one lane of a whole warp. Bulk copies and barrier_init() take addresses that are the same for a warp: where
// the compiler does not know that one lane alone comes there, it makes a loop over lanes, of some fifty cycles for
// each.
__device__ __forceinline__ bool elected() {
#if FAIRWAY_CODE_HAS_CLUSTERS
  unsigned one;
  asm volatile("{.reg .pred one; elect.sync _|one, 0xFFFFFFFF; selp.u32 %0, 1, 0, one;}" : "=r"(one));
  return one != 0;
#else
  return (threadIdx.x & 31) == 0;
#endif
}

// Programmatic dependent launch. Every kernel waits before it touches what an earlier one wrote, and lets the next one
// start only after that wait: so whatever the kernel before last wrote is visible from a kernel's first instruction.
// The exceptions, attend_latent.cuh and AnnouncedRoutes::row, say what that asks of the kernel behind them.
// Before generation 9.0 a kernel begins when the one ahead has ended, and there is nothing to wait for.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if FAIRWAY_CODE_HAS_CLUSTERS
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_next_kernel_start() {
#if FAIRWAY_CODE_HAS_CLUSTERS
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// The launch's dynamic shared memory, aligned as the tensor instructions of four warps need it.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
}

template <int kThreads>
__device__ __forceinline__ void consumer_sync() {
  asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
}

// A left shift on the multiplier: the arithmetic unit, busy with permutes and logic, is what bounds the decode loops.
template <int kShift>
__device__ __forceinline__ unsigned multiply_by_power(unsigned v) {
  unsigned shifted;
  asm("mul.lo.u32 %0, %1, %2;" : "=r"(shifted) : "r"(v), "n"(1u << kShift));
  return shifted;
}

// d[16 x 8] += a[16 x 32] b[32 x 8], unsigned by signed bytes.
__device__ __forceinline__ void mma_u8s8(int (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                         unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// d[16 x 8] += a[16 x 16] b[16 x 8], halves into floats.
__device__ __forceinline__ void mma_half(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                         unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Asks for the line at p, so that a later read of it finds it in the second-level cache.
__device__ __forceinline__ void prefetch_line(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

// Matrices of 8 rows of 8 halves from shared memory. Lane 8 i + r gives the address (16-byte aligned) of row r of
// matrix i. Register i of a lane: elements 2 * (lane % 4) and the next of row lane / 4; transposed: of column lane / 4.
// Of _x2 the upper lanes' addresses are not used.
__device__ __forceinline__ void load_matrices_x4(unsigned (&d)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrices_x2(unsigned (&d)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(d[0]), "=r"(d[1])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed_x4(unsigned (&d)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed_x2(unsigned (&d)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(d[0]), "=r"(d[1])
               : "r"(shared_address(row))
               : "memory");
}

// Copies 16 bytes to shared memory without waiting, or writes zeros there and reads nothing. Both addresses 16-byte
// aligned. A thread's copies are there for itself when it has waited for their group.
__device__ __forceinline__ void copy_async_16(void* to, const void* from, bool zeros) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(zeros ? 0 : 16)
               : "memory");
}
__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most kGroups of the thread's groups are still to come.
template <int kGroups>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

// Two E4M3 values, in the lower 16 bits, as two halves. Exact.
__device__ __forceinline__ unsigned halves_from_e4m3(unsigned pair) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
  // With the exponent's bits where a half has its own, a value is 2^-8 of itself, and a product with 2^8 is exact.
  const unsigned upper = __byte_perm(pair, 0, 0x1404), size = upper & 0x7F007F00u;
  const unsigned small = (upper & 0x80008000u) | size >> 1;
  unsigned halves;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(halves) : "r"(small), "r"(0x5C005C00u));
  return halves | (__vcmpeq2(size, 0x7F007F00u) & 0x7FFF7FFFu);  // NaN, which has no other form
#else
  unsigned halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<unsigned short>(pair)));
  return halves;
#endif
}

// Four E4M3 values as halves, without instructions that only move bytes.
__device__ __forceinline__ uint2 four_halves_from_e4m3(unsigned four) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
  return make_uint2(halves_from_e4m3(four & 0xFFFFu), halves_from_e4m3(four >> 16));
#else
  uint2 halves;
  asm("{.reg .b16 low, high; mov.b32 {low, high}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 %0, low; cvt.rn.f16x2.e4m3x2 %1, high;}"
      : "=r"(halves.x), "=r"(halves.y)
      : "r"(four));
  return halves;
#endif
}

// Stores 16 bytes where `to` would be in the shared memory of another CTA of the cluster, which must have started, and
// counts them on that CTA's barrier. It waits with barrier_wait_cluster().
__device__ __forceinline__ void send_to_cluster(float4* to, std::uint64_t* bar, int rank, float4 v) {
#if FAIRWAY_CODE_HAS_CLUSTERS
  asm volatile(
      "{\n"
      ".reg .b32 remote, remote_bar;\n"
      "mapa.shared::cluster.u32 remote, %0, %2;\n"
      "mapa.shared::cluster.u32 remote_bar, %1, %2;\n"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [remote], {%3, %4, %5, %6}, [remote_bar];\n"
      "}\n" ::"r"(shared_address(to)),
      "r"(shared_address(bar)), "r"(rank), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
      : "memory");
#else
  not_for_this_code();
#endif
}
__device__ __forceinline__ void barrier_wait_cluster(std::uint64_t* bar, int parity) {
#if FAIRWAY_CODE_HAS_CLUSTERS
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@done bra finished;\n"
      "bra again;\n"
      "finished:\n"
      "}\n" ::"r"(shared_address(bar)),
      "r"(parity)
      : "memory");
#else
  not_for_this_code();
#endif
}

// Registers of each thread of a group of four warps from here on, a multiple of 8; every warp of the group comes here.
// One group gives them up, then another may have more than the launch gave it.
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
#if FAIRWAY_CODE_HAS_WGMMA
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#else
  not_for_this_code();
#endif
}
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
#if FAIRWAY_CODE_HAS_WGMMA
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#else
  not_for_this_code();
#endif
}

// All threads of the cluster meet. Orders no memory but initialised barriers, see barrier_init_fence().
__device__ __forceinline__ void cluster_meet() {
#if FAIRWAY_CODE_HAS_CLUSTERS
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
#else
  not_for_this_code();
#endif
}

// The cluster's barrier in two halves, without an order of memory: after the wait, all threads of the cluster have
// arrived. A load is over when its value has been used. Whole warps call these, converged.
__device__ __forceinline__ void cluster_arrive() {
#if FAIRWAY_CODE_HAS_CLUSTERS
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#else
  not_for_this_code();
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if FAIRWAY_CODE_HAS_CLUSTERS
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  not_for_this_code();
#endif
}

// Stores v where `to` would be in the shared memory of another CTA of the cluster, which must have started, and counts
// its 4 bytes on that CTA's barrier. It waits with barrier_wait_cluster().
__device__ __forceinline__ void send_to_cluster(float* to, std::uint64_t* bar, int rank, float v) {
#if FAIRWAY_CODE_HAS_CLUSTERS
  asm volatile(
      "{\n"
      ".reg .b32 remote, remote_bar;\n"
      "mapa.shared::cluster.u32 remote, %0, %2;\n"
      "mapa.shared::cluster.u32 remote_bar, %1, %2;\n"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [remote], %3, [remote_bar];\n"
      "}\n" ::"r"(shared_address(to)),
      "r"(shared_address(bar)), "r"(rank), "f"(v)
      : "memory");
#else
  not_for_this_code();
#endif
}

// Words through which CTAs of one launch tell each other what they have written. Release: what this thread wrote, and
// what it knows of from barriers of its CTA, is visible to whoever reads the value with acquire.
__device__ __forceinline__ void store_release(unsigned* word, unsigned value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}
__device__ __forceinline__ unsigned load_acquire(const unsigned* word) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
}
// Polls with acquire until the word's value will do. Some seconds without it end the launch with a fault, so that a
// mistake cannot block the GPU for good.
constexpr int kMostPolls = 1 << 24;
template <class WillDo>
__device__ __forceinline__ void poll_word(const unsigned* word, const WillDo& will_do) {
#pragma unroll 1
  for (int i = 0; i < kMostPolls; ++i) {
    if (will_do(load_acquire(word))) return;
  }
  __trap();
}
// Until the word has the value.
__device__ __forceinline__ void wait_for_value(const unsigned* word, unsigned value) {
  poll_word(word, [value](unsigned now) { return now == value; });
}
// Until a count that grows is at `value` or beyond.
__device__ __forceinline__ void wait_until_reached(const unsigned* word, unsigned value) {
  poll_word(word, [value](unsigned now) { return static_cast<int>(now - value) >= 0; });
}

// Clock cycles of this SM, and nanoseconds of the device's clock, which all SMs share.
__device__ __forceinline__ long long cycle_counter() {
  return clock64();
}
__device__ __forceinline__ long long device_nanoseconds() {
  long long now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

// Tensor instructions of a group of four warps, threads 128 i .. 128 i + 127, which all come here. They run on while
// the threads go on: between wgmma_half() and a wgmma_wait() that covers it, its sums and weights may be neither read
// nor written, nor may its rows in shared memory be overwritten. wgmma_fence() comes after the registers were written
// and before the instructions of a group, wgmma_commit() after them. Rows that bulk copies have written need no fence.

constexpr int kWgmmaSums = 64;  // of a thread, for the most columns

// Lower half of the descriptor of 16 columns of a matrix in shared memory, by rows of 64 halves: row r is the 128 bytes
// from rows + 128 r on, rows is aligned to 1024 bytes, and 16-byte chunk c of row r stands in place c ^ (r & 7). This
// is the PTX manual's K-major layout with 128-byte swizzle, so the bits are: 0..13 address / 16, 16..29 not used by
// that layout, 32..45 bytes from eight rows to the next eight / 16, 62..63 the swizzle. The next 16 columns: +
// kWgmmaNextColumns.
__device__ __forceinline__ unsigned swizzled_rows(const void* rows) {
  return (shared_address(rows) >> 4 & 0x3FFF) | 1u << 16;
}
constexpr unsigned kSwizzledRowsUpper = 1u << 30 | 1024 >> 4;
constexpr unsigned kWgmmaNextColumns = 32 >> 4;

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most kGroups of the groups are still at work.
template <int kGroups>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}
// Keeps the compiler from moving uses of the sums before the wait that precedes this.
__device__ __forceinline__ void wgmma_settle(float (&d)[kWgmmaSums]) {
#pragma unroll
  for (int i = 0; i < kWgmmaSums; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// d[64 x kColumns] += a[64 x 16] b[16 x kColumns], halves into floats. Warp w of the group has rows 16 w .. 16 w + 15
// of a and d, as in mma_half(): d[4 j ..] are its sums of columns 8 j .. 8 j + 7. Column n of b is row n of the matrix.
template <int kColumns>
__device__ __forceinline__ void wgmma_half(float (&d)[kWgmmaSums], const unsigned (&a)[4], unsigned rows) {
  static_assert(kColumns == 32 || kColumns == 64 || kColumns == 96 || kColumns == 128);
#define FAIRWAY_SUMS_8(i)                                                                                     \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define FAIRWAY_SUMS_16(i) FAIRWAY_SUMS_8(i), FAIRWAY_SUMS_8(i + 8)
#define FAIRWAY_OPERANDS "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(rows), "n"(kSwizzledRowsUpper)
#define FAIRWAY_NAMES_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define FAIRWAY_NAMES_32 FAIRWAY_NAMES_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define FAIRWAY_NAMES_48 FAIRWAY_NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define FAIRWAY_NAMES_64 FAIRWAY_NAMES_48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
  if constexpr (kColumns == 32) {
    asm volatile(
        "{.reg .b64 rows; mov.b64 rows, {%20, %21};\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {" FAIRWAY_NAMES_16
        "}, {%16,%17,%18,%19}, rows, 1, 1, 1, 0;}"
        : FAIRWAY_SUMS_16(0)
        : FAIRWAY_OPERANDS);
  } else if constexpr (kColumns == 64) {
    asm volatile(
        "{.reg .b64 rows; mov.b64 rows, {%36, %37};\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" FAIRWAY_NAMES_32
        "}, {%32,%33,%34,%35}, rows, 1, 1, 1, 0;}"
        : FAIRWAY_SUMS_16(0), FAIRWAY_SUMS_16(16)
        : FAIRWAY_OPERANDS);
  } else if constexpr (kColumns == 96) {
    asm volatile(
        "{.reg .b64 rows; mov.b64 rows, {%52, %53};\n"
        "wgmma.mma_async.sync.aligned.m64n96k16.f32.f16.f16 {" FAIRWAY_NAMES_48
        "}, {%48,%49,%50,%51}, rows, 1, 1, 1, 0;}"
        : FAIRWAY_SUMS_16(0), FAIRWAY_SUMS_16(16), FAIRWAY_SUMS_16(32)
        : FAIRWAY_OPERANDS);
  } else {
    asm volatile(
        "{.reg .b64 rows; mov.b64 rows, {%68, %69};\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" FAIRWAY_NAMES_64
        "}, {%64,%65,%66,%67}, rows, 1, 1, 1, 0;}"
        : FAIRWAY_SUMS_16(0), FAIRWAY_SUMS_16(16), FAIRWAY_SUMS_16(32), FAIRWAY_SUMS_16(48)
        : FAIRWAY_OPERANDS);
  }
#undef FAIRWAY_SUMS_8
#undef FAIRWAY_SUMS_16
#undef FAIRWAY_OPERANDS
#undef FAIRWAY_NAMES_16
#undef FAIRWAY_NAMES_32
#undef FAIRWAY_NAMES_48
#undef FAIRWAY_NAMES_64
}

// The reverse of load_matrices_transposed_x2(): element 2 * (lane % 4), + 1 of register i goes to that row of matrix i,
// element lane / 4. Lane 8 i + r gives the address (16-byte aligned) of row r of matrix i, other lanes' are not used.
__device__ __forceinline__ void store_matrices_transposed_x2(void* row, const unsigned (&d)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  const unsigned mine = shared_address(row), lane = threadIdx.x & 31, column = lane / 4;
#pragma unroll
  for (unsigned i = 0; i < 2; ++i) {
#pragma unroll
    for (unsigned half = 0; half < 2; ++half) {
      const unsigned to = __shfl_sync(0xFFFFFFFFu, mine, static_cast<int>(8 * i + lane % 4 * 2 + half)) + 2 * column;
      asm volatile("st.shared.u16 [%0], %1;" ::"r"(to), "h"(static_cast<unsigned short>(d[i] >> (16 * half)))
                   : "memory");
    }
  }
#else
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1,%2};" ::"r"(shared_address(row)), "r"(d[0]),
               "r"(d[1])
               : "memory");
#endif
}

// The barrier gets an arrival of this thread when all asynchronous copies that it has begun are there; its readers see
// them then.
__device__ __forceinline__ void copy_async_arrive(std::uint64_t* bar) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(bar)) : "memory");
}

// Two floats, each in one 8-byte word with a number. Who finds the number that he waits for has the float too: a word
// is written and read as a whole, so nobody needs to order it with another one. 16 bytes, aligned.
__device__ __forceinline__ void store_numbered(uint4* to, float a, float b, unsigned number) {
  asm volatile(
      "{\n"
      ".reg .b64 x, y;\n"
      "mov.b64 x, {%1, %3};\n"
      "mov.b64 y, {%2, %3};\n"
      "st.relaxed.gpu.global.v2.b64 [%0], {x, y};\n"
      "}\n" ::"l"(to),
      "f"(a), "f"(b), "r"(number)
      : "memory");
}
// One of the two.
__device__ __forceinline__ void store_numbered_word(uint4* to, int which, unsigned value, unsigned number) {
  asm volatile(
      "{\n"
      ".reg .b64 x;\n"
      "mov.b64 x, {%1, %2};\n"
      "st.relaxed.gpu.global.b64 [%0], x;\n"
      "}\n" ::"l"(reinterpret_cast<uint2*>(to) + which),
      "r"(value), "r"(number)
      : "memory");
}
__device__ __forceinline__ uint4 load_numbered(const uint4* from) {
  uint4 v;
  asm volatile(
      "{\n"
      ".reg .b64 x, y;\n"
      "ld.relaxed.gpu.global.v2.b64 {x, y}, [%4];\n"
      "mov.b64 {%0, %1}, x;\n"
      "mov.b64 {%2, %3}, y;\n"
      "}\n"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(from)
      : "memory");
  return v;
}

// About so long, for a warp that would otherwise do something too soon.
__device__ __forceinline__ void pause_nanoseconds(unsigned time) {
  __nanosleep(time);
}

// Between two polls of such words, of which the thread has done `polls`: some seconds of them end the launch with a
// fault.
__device__ __forceinline__ void poll_again(int polls) {
  if (polls > kMostPolls) __trap();
}

// Makes what this thread has written to shared memory, by stores or its own asynchronous copies that it has waited for,
// visible to the tensor instructions of four warps. Before the barrier behind which they start.
__device__ __forceinline__ void fence_for_wgmma() {
#if FAIRWAY_CODE_HAS_WGMMA
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
  not_for_this_code();
#endif
}

// d[64 x 24] += a[64 x 16] b[16 x 24], halves into floats, both from matrices in shared memory as swizzled_rows()
// describes them: column n of b is row n of its matrix, and row m of a is row m of its matrix. kTransposed: column k of
// a is row k of its matrix, 64 halves long; the next 16 columns: + kWgmmaNextRows. d[j] are a thread's sums of columns
// 8 j .. 8 j + 7, as of wgmma_half().
constexpr unsigned kWgmmaNextRows = 16 * 128 >> 4;
template <bool kTransposed>
__device__ __forceinline__ void wgmma_half_24(float (&d)[3][4], unsigned a, unsigned b) {
#if FAIRWAY_CODE_HAS_WGMMA
  asm volatile(
      "{.reg .b64 a, b; mov.b64 a, {%12, %14}; mov.b64 b, {%13, %14};\n"
      "wgmma.mma_async.sync.aligned.m64n24k16.f32.f16.f16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11}, a, b, 1, 1, 1, %15, "
      "0;}"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),
        "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3])
      : "r"(a), "r"(b), "n"(kSwizzledRowsUpper), "n"(kTransposed ? 1 : 0));
#else
  not_for_this_code();
#endif
}
__device__ __forceinline__ void wgmma_settle(float (&d)[3][4]) {
#pragma unroll
  for (int i = 0; i < 12; ++i) asm volatile("" : "+f"(d[i / 4][i % 4])::"memory");
}

// A barrier of some of a CTA's warps, beside consumer_sync(): groups 0 to 13 do not wait for each other.
template <int kGroup, int kThreads>
__device__ __forceinline__ void group_sync() {
  asm volatile("bar.sync %0, %1;" ::"n"(2 + kGroup), "n"(kThreads) : "memory");
}

// 2^v, to within 2 units of a float's last place; zero below 2^-126.
__device__ __forceinline__ float power_of_two(float v) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(v));
  return power;
}

// 1 / v to within 2^-20 of itself, for a v that is neither small nor large.
__device__ __forceinline__ double reciprocal_about(double v) {
  double inverse;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(inverse) : "d"(v));
  return inverse;
}

// Four floats that other CTAs of the launch read or have written. Each float is written and read as a whole, in no
// order with others. 16 bytes, aligned.
__device__ __forceinline__ void store_shared_floats(float4* to, float4 v) {
  asm volatile("st.relaxed.gpu.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
               : "memory");
}
__device__ __forceinline__ float4 load_shared_floats(const float4* from) {
  float4 v;
  asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(from)
               : "memory");
  return v;
}

}  // namespace fairway::kernels::cuda
