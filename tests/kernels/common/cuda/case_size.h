// Sizes of test cases that depend on how fast the kernels run: some thousand times slower in the emulator, and some
// thousand times under compute-sanitizer's racecheck too, for which the environment variable FAIRWAY_SMALL_CASES=1 asks
// for the emulator's sizes and for single runs.
#pragma once

#include <cstdlib>
#include <utility>
#include <vector>

namespace fairway::kernels::cuda::check {

// Every case runs once. In other tests it runs a second time, on other poison, and must give the same bits; racecheck
// sees the same accesses in both.
inline bool single_runs() {
#ifdef FAIRWAY_CUDA_EMULATED
  return false;
#else
  static const bool asked = std::getenv("FAIRWAY_SMALL_CASES") != nullptr;
  return asked;
#endif
}

inline bool small_cases() {
#ifdef FAIRWAY_CUDA_EMULATED
  return true;
#else
  return single_runs();
#endif
}

template <class T>
T by_size(T full, T small) {
  return small_cases() ? std::move(small) : std::move(full);
}
// least: with single runs, where even the emulator's sizes take some seconds. Every kernel still meets all its
// barriers.
template <class T>
T by_size(T full, T small, T least) {
  return single_runs() ? std::move(least) : by_size(std::move(full), std::move(small));
}

// What outputs and scratch hold before each run of a case.
inline std::vector<int> poisons() {
  return single_runs() ? std::vector<int>{0xFF} : std::vector<int>{0xFF, 0x7F};
}

}  // namespace fairway::kernels::cuda::check
