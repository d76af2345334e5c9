// Softmax sums over rows of logits.
#include "engine/divergence.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fairway::engine {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::size_t index_of_largest(std::span<const float> row) {
  return static_cast<std::size_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

// What is not finite makes the sum of the row's differences from its top NaN or infinite.
bool is_usable(double sum, double checked) {
  return std::isfinite(sum) && std::isfinite(checked);
}

}  // namespace

void ReferenceRow::reset(std::span<const float> logits) {
  logits_ = logits;
  top_index_ = index_of_largest(logits);
  top_ = static_cast<double>(logits[top_index_]);
  weights_.resize(logits.size());
  double sum = 0, checked = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double below = static_cast<double>(logits[i]) - top_;
    checked += below;
    weights_[i] = std::exp(below);
    sum += weights_[i];
  }
  sum_ = is_usable(sum, checked) ? sum : kNan;
}

double ReferenceRow::logprob(int target) const {
  return static_cast<double>(logits_[static_cast<std::size_t>(target)]) - top_ - std::log(sum_);
}

// With weights w_i = exp(a_i - top_a) of sum A, and the candidate's sum B in the same way, the divergence is
// sum_i w_i ((a_i - top_a) - (b_i - top_b)) / A - log A + log B: one exponential per entry and row, and equal rows give
// exactly 0. It is never negative but for rounding, which is cut off.
RowDifference ReferenceRow::compare(std::span<const float> candidate, int target) const {
  const std::size_t top_index = index_of_largest(candidate);
  const double top = static_cast<double>(candidate[top_index]);
  double sum = 0, weighted = 0, checked = 0;
  for (std::size_t i = 0; i < candidate.size(); ++i) {
    const double below = static_cast<double>(candidate[i]) - top;
    checked += below;
    sum += std::exp(below);
    weighted += weights_[i] * (static_cast<double>(logits_[i]) - top_ - below);
  }
  if (!is_usable(sum, checked)) sum = kNan;
  const double divergence = weighted / sum_ - std::log(sum_) + std::log(sum);
  return {.divergence = divergence < 0 ? 0 : divergence,  // NaN stays
          .logprob = static_cast<double>(candidate[static_cast<std::size_t>(target)]) - top - std::log(sum),
          .same_top = top_index == top_index_};
}

}  // namespace fairway::engine
