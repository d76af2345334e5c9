// Log-probabilities of classes out of a row of logits.
#include "engine/log_softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace fairway::engine {

double log_softmax_at(std::span<const float> logits, int target) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - top);
  return static_cast<double>(logits[static_cast<std::size_t>(target)]) - top - std::log(sum);
}

std::vector<int> largest_logits(std::span<const float> logits, int count) {
  std::vector<int> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto kept = ids.begin() + std::min<std::ptrdiff_t>(count, std::ssize(ids));
  const auto key = [&](int id) {
    const float logit = logits[static_cast<std::size_t>(id)];
    return std::isnan(logit) ? -std::numeric_limits<float>::infinity() : logit;
  };
  std::partial_sort(ids.begin(), kept, ids.end(), [&](int a, int b) {
    const float x = key(a), y = key(b);
    return x > y || (x == y && a < b);
  });
  ids.erase(kept, ids.end());
  return ids;
}

}  // namespace fairway::engine
