// The only comparator of the tests: worst element and worst row against a stated bound, NaN never equal.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace fairway::test {

struct Bound {
  double absolute = 0;  // every |actual - expected| must be <= absolute + relative * |expected|
  double relative = 0;
  double row_relative =
      -1;  // if >= 0: per row, norm(actual - expected) <= row_relative * norm(expected) + row_absolute
  double row_absolute = 0;
};

// expected and actual: [rows, columns]. Returns an empty string if everything is within the bound; otherwise the worst
// element and the worst row with their values. NaN or infinity on either side fails unless both are the same infinity.
std::string compare(std::span<const float> expected, std::span<const float> actual, std::int64_t columns, Bound bound);

// Bit for bit; NaN equals NaN of the same bits.
std::string compare_exact(std::span<const float> expected, std::span<const float> actual);

}  // namespace fairway::test
