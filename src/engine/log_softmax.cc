// Log-probability of one class out of a row of logits.
#include "engine/log_softmax.h"

#include <algorithm>
#include <cmath>

namespace fairway::engine {

double log_softmax_at(std::span<const float> logits, int target) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - top);
  return static_cast<double>(logits[static_cast<std::size_t>(target)]) - top - std::log(sum);
}

}  // namespace fairway::engine
