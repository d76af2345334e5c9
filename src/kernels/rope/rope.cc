// rope: the table of angles and the rotation of one head.
#include "kernels/rope/rope.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "fairway/error.h"

namespace fairway::kernels {
namespace {

constexpr int kMaxRopeDim = 4096;  // bounds the stack copy of the interleaved layout; models use 32 to 128

}  // namespace

RopeTable::RopeTable(int dim, double theta) : dim_(dim), theta_(theta) {
  if (dim <= 0 || dim % 2 != 0 || dim > kMaxRopeDim || !(theta > 0)) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("rope: dimension {} and theta {}; expected an even dimension up to {} "
                            "and a positive theta",
                            dim, theta, kMaxRopeDim));
  }
}

void RopeTable::grow(int positions) {
  if (positions <= positions_) return;
  const std::size_t half = static_cast<std::size_t>(dim_ / 2);
  cos_.resize(half * static_cast<std::size_t>(positions));
  sin_.resize(half * static_cast<std::size_t>(positions));
  for (std::size_t i = 0; i < half; ++i) {
    const double frequency = std::pow(theta_, -2.0 * static_cast<double>(i) / dim_);
    for (int position = positions_; position < positions; ++position) {
      const std::size_t at = static_cast<std::size_t>(position) * half + i;
      cos_[at] = static_cast<float>(std::cos(position * frequency));
      sin_[at] = static_cast<float>(std::sin(position * frequency));
    }
  }
  positions_ = positions;
}

const float* RopeTable::cos_row(int position) const {
  return cos_.data() + static_cast<std::ptrdiff_t>(position) * (dim_ / 2);
}

const float* RopeTable::sin_row(int position) const {
  return sin_.data() + static_cast<std::ptrdiff_t>(position) * (dim_ / 2);
}

void apply_rope(float* x, const RopeTable& table, int position, RopeLayout layout) {
  const int half = table.dim() / 2;
  const float* cos = table.cos_row(position);
  const float* sin = table.sin_row(position);
  float interleaved[kMaxRopeDim];
  const bool pairs_adjacent = layout == RopeLayout::kInterleaved;
  if (pairs_adjacent) std::copy_n(x, table.dim(), interleaved);
  for (int i = 0; i < half; ++i) {
    const float a = pairs_adjacent ? interleaved[2 * i] : x[i];
    const float b = pairs_adjacent ? interleaved[2 * i + 1] : x[i + half];
    x[i] = a * cos[i] - b * sin[i];
    x[i + half] = b * cos[i] + a * sin[i];
  }
}

}  // namespace fairway::kernels
