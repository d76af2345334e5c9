// The comparator: worst element and worst row, NaN never within a bound.
#include "kernels/verify/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace fairway::verify {
namespace {

// How far outside the bound a value is: 0 or less is inside. NaN and a lone infinity are infinitely far outside.
double excess_over(double error, double limit) {
  if (std::isnan(error) || std::isnan(limit)) return std::numeric_limits<double>::infinity();
  return error - limit;
}

struct Worst {
  double excess = 0;  // largest one so far; only values above 0 count
  std::int64_t index = -1;
  std::int64_t failures = 0;

  void see(std::int64_t i, double excess_here) {
    if (!(excess_here > 0)) return;
    ++failures;
    if (index < 0 || excess_here > excess) {
      excess = excess_here;
      index = i;
    }
  }
};

double element_excess(double expected, double actual, const Bound& bound) {
  if (std::isinf(expected) && expected == actual) return 0;
  if (!std::isfinite(expected) || !std::isfinite(actual)) return std::numeric_limits<double>::infinity();
  return excess_over(std::fabs(actual - expected), bound.absolute + bound.relative * std::fabs(expected));
}

struct RowNorms {
  double error = 0, expected = 0;
};

RowNorms row_norms(std::span<const float> expected, std::span<const float> actual) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double e = expected[i];
    const double d = static_cast<double>(actual[i]) - e;
    if (std::isinf(e) && actual[i] == expected[i]) continue;  // the same infinity on both sides
    error += d * d;
    norm += e * e;
  }
  return {std::sqrt(error), std::sqrt(norm)};
}

}  // namespace

std::string compare(std::span<const float> expected, std::span<const float> actual, std::int64_t columns, Bound bound) {
  if (expected.size() != actual.size())
    return fmt::format("{} expected values, {} actual", expected.size(), actual.size());
  if (columns <= 0 || expected.size() % static_cast<std::size_t>(columns) != 0) {
    return fmt::format("{} values do not make rows of {}", expected.size(), columns);
  }
  // With only a row bound given, elements are still checked for NaN and infinity.
  const bool rows_only = bound.row_relative >= 0 && bound.absolute == 0 && bound.relative == 0;
  Bound element_bound = bound;
  if (rows_only) element_bound.absolute = std::numeric_limits<double>::max();
  Worst element;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    element.see(static_cast<std::int64_t>(i), element_excess(expected[i], actual[i], element_bound));
  }
  Worst row;
  RowNorms worst_norms;
  const auto width = static_cast<std::size_t>(columns);
  for (std::size_t r = 0; bound.row_relative >= 0 && r < expected.size() / width; ++r) {
    const RowNorms norms = row_norms(expected.subspan(r * width, width), actual.subspan(r * width, width));
    const std::int64_t before = row.index;
    row.see(
        static_cast<std::int64_t>(r),
        excess_over(norms.error, bound.row_relative * std::max(norms.expected, bound.row_floor) + bound.row_absolute));
    if (row.index != before) worst_norms = norms;
  }
  std::string message;
  if (element.index >= 0) {
    const auto i = static_cast<std::size_t>(element.index);
    message += fmt::format("{} of {} elements out of bound; worst at row {} column {}: expected {}, actual {}. ",
                           element.failures, expected.size(), element.index / columns, element.index % columns,
                           expected[i], actual[i]);
  }
  if (row.index >= 0) {
    message += fmt::format("{} rows out of bound; worst is row {}: error norm {} of {}. ", row.failures, row.index,
                           worst_norms.error, worst_norms.expected);
  }
  return message;
}

double worst_row_error(std::span<const float> expected, std::span<const float> actual, std::int64_t columns,
                       double row_floor) {
  const auto width = static_cast<std::size_t>(columns);
  double worst = 0;
  for (std::size_t r = 0; r < expected.size() / width; ++r) {
    const RowNorms norms = row_norms(expected.subspan(r * width, width), actual.subspan(r * width, width));
    const double error = norms.error == 0 ? 0 : norms.error / std::max(norms.expected, row_floor);
    worst = std::max(worst, std::isnan(error) ? std::numeric_limits<double>::infinity() : error);
  }
  return worst;
}

double typical_row_norm(std::span<const float> values, std::int64_t columns) {
  if (values.empty()) return 0;
  double squares = 0;
  for (const float value : values) squares += static_cast<double>(value) * value;
  return std::sqrt(squares * static_cast<double>(columns) / static_cast<double>(values.size()));
}

std::string compare_exact(std::span<const float> expected, std::span<const float> actual) {
  if (expected.size() != actual.size())
    return fmt::format("{} expected values, {} actual", expected.size(), actual.size());
  std::size_t differing = 0, first = 0;
  for (std::size_t i = expected.size(); i-- > 0;) {
    if (std::bit_cast<std::uint32_t>(expected[i]) == std::bit_cast<std::uint32_t>(actual[i])) continue;
    ++differing;
    first = i;
  }
  if (differing == 0) return {};
  return fmt::format("{} of {} elements differ; the first is {}: expected {} ({:#010x}), actual {} ({:#010x})",
                     differing, expected.size(), first, expected[first], std::bit_cast<std::uint32_t>(expected[first]),
                     actual[first], std::bit_cast<std::uint32_t>(actual[first]));
}

}  // namespace fairway::verify
