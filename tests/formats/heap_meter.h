// Live heap bytes of a test program and their highest value. Include it in exactly one file of a program: it replaces
// the global operator new there, or listens to the sanitizer's allocator if the program runs under one.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FAIRWAY_SANITIZED_HEAP 1
// The sanitizers' run time has these; their header comes with clang only.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void*, std::size_t),
                                                         void (*on_free)(const volatile void*));
extern "C" std::size_t __sanitizer_get_allocated_size(const volatile void* block);
#else
#include <malloc.h>
#endif

namespace fairway::test {

inline std::atomic<std::size_t> heap_live{0};
inline std::atomic<std::size_t> heap_peak{0};

inline void count_allocated(std::size_t bytes) {
  const std::size_t live = heap_live += bytes;
  std::size_t peak = heap_peak;
  while (live > peak && !heap_peak.compare_exchange_weak(peak, live)) {
  }
}

#ifdef FAIRWAY_SANITIZED_HEAP
inline void on_malloc(const volatile void*, std::size_t bytes) {
  count_allocated(bytes);
}
inline void on_free(const volatile void* block) {
  if (block != nullptr) heap_live -= __sanitizer_get_allocated_size(block);
}
inline const int kHeapHooks = __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
#endif

// Highest number of bytes that `step` had allocated at one time beyond what was live before it.
template <typename Step>
std::size_t heap_growth(const Step& step) {
  const std::size_t before = heap_live;
  heap_peak = before;
  step();
  return heap_peak - before;
}

}  // namespace fairway::test

#ifndef FAIRWAY_SANITIZED_HEAP
// Not inlined: GCC 12 would see malloc on one side and operator delete on the other, and warn about the pair.
[[gnu::noinline]] void* operator new(std::size_t size) {
  void* block = std::malloc(size == 0 ? 1 : size);
  if (block == nullptr) throw std::bad_alloc();
  fairway::test::count_allocated(malloc_usable_size(block));
  return block;
}
[[gnu::noinline]] void* operator new[](std::size_t size) {
  return operator new(size);
}
[[gnu::noinline]] void operator delete(void* block) noexcept {
  if (block != nullptr) fairway::test::heap_live -= malloc_usable_size(block);
  std::free(block);
}
[[gnu::noinline]] void operator delete[](void* block) noexcept {
  operator delete(block);
}
[[gnu::noinline]] void operator delete(void* block, std::size_t) noexcept {
  operator delete(block);
}
[[gnu::noinline]] void operator delete[](void* block, std::size_t) noexcept {
  operator delete(block);
}
#endif
