// Sizes of test cases that depend on how fast the kernels run: some thousand times slower in the emulator, some hundred
// times under compute-sanitizer's racecheck, for which the environment variable FAIRWAY_SMALL_CASES=1 asks for the
// emulator's sizes.
#pragma once

#include <cstdlib>
#include <utility>

namespace fairway::kernels::cuda::check {

inline bool small_cases() {
#ifdef FAIRWAY_CUDA_EMULATED
  return true;
#else
  static const bool asked = std::getenv("FAIRWAY_SMALL_CASES") != nullptr;
  return asked;
#endif
}

template <class T>
T by_size(T full, T small) {
  return small_cases() ? std::move(small) : std::move(full);
}

}  // namespace fairway::kernels::cuda::check
