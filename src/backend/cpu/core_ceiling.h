// What one core can do at most: byte multiply-adds and additions in a row, as loops that a caller times.
#pragma once

#include <cstdint>

namespace fairway::backend {

// A loop of independent dot products of bytes on registers, with nothing else in it that takes a multiplier's port.
struct Int8Loop {
  const char* instruction;  // "vpdpbusd zmm"
  int macs_per_step;
  // Multiplies 1 by 1 and returns the sum of all products modulo 2^32, which is macs_per_step * steps.
  std::uint32_t (*run)(std::int64_t steps);
};

// The loop of the instruction with the most byte products that a machine with these features has.
const Int8Loop& int8_loop(std::uint32_t features);

// Additions that wait for each other, one per clock cycle on every core with a latency of 1; returns `additions`.
std::uint64_t dependent_additions(std::int64_t additions);

}  // namespace fairway::backend
