// The only comparator of floats, for tests and `fairway verify`: worst element and worst row against a stated bound,
// NaN never equal.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace fairway::verify {

struct Bound {
  double absolute = 0;  // every |actual - expected| must be <= absolute + relative * |expected|
  double relative = 0;
  double row_relative =
      -1;  // if >= 0: per row, norm(actual - expected) <= row_relative * norm(expected) + row_absolute
  double row_absolute = 0;
  double row_floor = 0;  // a row whose expected norm is smaller is compared as if it were this
};

// expected and actual: [rows, columns]. Returns an empty string if everything is within the bound; otherwise the worst
// element and the worst row with their values. NaN or infinity on either side fails unless both are the same infinity.
std::string compare(std::span<const float> expected, std::span<const float> actual, std::int64_t columns, Bound bound);

// The largest norm(actual - expected) / max(norm(expected), row_floor) of a row, 0 without rows; infinity where a row
// is not finite, or differs from a row of zeros without a floor.
double worst_row_error(std::span<const float> expected, std::span<const float> actual, std::int64_t columns,
                       double row_floor = 0);
// Root mean square of the norms of the rows, 0 without rows.
double typical_row_norm(std::span<const float> values, std::int64_t columns);

// Bit for bit; NaN equals NaN of the same bits.
std::string compare_exact(std::span<const float> expected, std::span<const float> actual);

}  // namespace fairway::verify
