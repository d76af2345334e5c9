// Rounding the rows of a matrix to 8-bit integers.
#include "kernels/attention_mla/cuda/quantize_rows.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace fairway::kernels {
namespace {

constexpr int kMost = 127;
constexpr double kUnknownShare = 0.01;  // of the mean moment
constexpr int kRowsAtOnce = 16;         // that share a pass over the factors

// One value of each of four rows, in a vector register that every processor has; wider ones would go through memory.
using FourRows [[gnu::vector_size(16)]] = float;

float largest(const float* row, int columns) {
  float most = 0;
  for (int c = 0; c < columns; ++c) most = std::max(most, std::abs(row[c]));
  return most;
}

// Divided by the largest first: a scale may be too small for its inverse to be a float.
signed char nearest(float value, float most) {
  return most == 0.0f ? 0 : static_cast<signed char>(std::lround(value / most * static_cast<float>(kMost)));
}

// Up to kRowsAtOnce rows, column by column.
void quantize_block(const float* matrix, int rows, const RoundingFeedback& feedback, signed char* weights,
                    float* scales, std::vector<float>& errors) {
  const int columns = feedback.columns();
  float most[kRowsAtOnce] = {};
  for (int r = 0; r < rows; ++r) {
    most[r] = largest(matrix + static_cast<std::int64_t>(r) * columns, columns);
    scales[r] = most[r] / static_cast<float>(kMost);
  }
  for (int c = 0; c < columns; ++c) {
    const float* const factors = feedback.of_column(c);
    FourRows sums[kRowsAtOnce / 4] = {};
    for (int j = 0; j < c; ++j) {
      const float* const error = &errors[static_cast<std::size_t>(j) * kRowsAtOnce];
#pragma GCC unroll 4
      for (int i = 0; i < kRowsAtOnce / 4; ++i) {
        FourRows four;
        std::memcpy(&four, error + 4 * i, sizeof four);
        sums[i] += factors[j] * four;
      }
    }
    float wanted[kRowsAtOnce];
    std::memcpy(wanted, sums, sizeof wanted);
    float* const error = &errors[static_cast<std::size_t>(c) * kRowsAtOnce];
    for (int r = 0; r < rows; ++r) {
      const std::int64_t at = static_cast<std::int64_t>(r) * columns + c;
      weights[at] = nearest(std::clamp(matrix[at] + wanted[r], -most[r], most[r]), most[r]);
      error[r] = matrix[at] - scales[r] * static_cast<float>(weights[at]);
    }
  }
}

}  // namespace

void quantize_rows_int8(const float* matrix, int rows, int columns, signed char* weights, float* scales) {
  for (int r = 0; r < rows; ++r) {
    const float* const from = matrix + static_cast<std::int64_t>(r) * columns;
    signed char* const to = weights + static_cast<std::int64_t>(r) * columns;
    const float most = largest(from, columns);
    scales[r] = most / static_cast<float>(kMost);
    for (int c = 0; c < columns; ++c) to[c] = nearest(from[c], most);
  }
}

RoundingFeedback::RoundingFeedback(std::span<const double> moments, int columns)
    : columns_(columns), width_(static_cast<std::size_t>(columns)), factors_(width_ * width_, 0.0f) {
  std::vector<double> rest(moments.begin(), moments.end());
  double trace = 0;
  for (std::size_t i = 0; i < width_; ++i) trace += rest[i * width_ + i];
  for (std::size_t i = 0; i < width_; ++i) {
    rest[i * width_ + i] += kUnknownShare * trace / static_cast<double>(columns);
  }
  std::vector<double> factor(width_);
  for (std::size_t k = width_; k-- > 0;) {
    const double pivot = rest[k * width_ + k];
    if (!(pivot > 0)) continue;  // nothing is known of this column: no feedback into it
    for (std::size_t i = 0; i < k; ++i) {
      factor[i] = rest[k * width_ + i] / pivot;
      factors_[k * width_ + i] = static_cast<float>(factor[i]);
    }
    for (std::size_t i = 0; i < k; ++i) {
      const double scaled = pivot * factor[i];
      for (std::size_t j = 0; j <= i; ++j) rest[i * width_ + j] -= scaled * factor[j];  // the other half is like it
    }
  }
}

void quantize_rows_int8(const float* matrix, int rows, const RoundingFeedback& feedback, signed char* weights,
                        float* scales) {
  std::vector<float> errors(static_cast<std::size_t>(feedback.columns()) * kRowsAtOnce, 0.0f);
  for (int r = 0; r < rows; r += kRowsAtOnce) {
    const std::int64_t begin = static_cast<std::int64_t>(r) * feedback.columns();
    quantize_block(matrix + begin, std::min(kRowsAtOnce, rows - r), feedback, weights + begin, scales + r, errors);
  }
}

}  // namespace fairway::kernels
