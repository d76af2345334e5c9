// Loops with compile-time indices, unrolled by the language: GCC 12 keeps arrays of vector registers in memory if their
// indices become constants only in a late loop pass.
#pragma once

#include <utility>

namespace fairway::kernels {

// fn(std::integral_constant<int, 0>{}) .. fn(std::integral_constant<int, kCount - 1>{}).
template <int kCount, class Fn>
[[gnu::always_inline]] inline void unrolled(Fn&& fn) {
  [&]<int... kI>(std::integer_sequence<int, kI...>) __attribute__((always_inline)) {
    (fn(std::integral_constant<int, kI>{}), ...);
  }
  (std::make_integer_sequence<int, kCount>{});
}

#define FAIRWAY_INLINE_LAMBDA __attribute__((always_inline))

}  // namespace fairway::kernels
