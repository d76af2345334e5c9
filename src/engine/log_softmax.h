// Log-probability of one class out of a row of logits.
#pragma once

#include <span>

namespace fairway::engine {

// log(exp(logits[target]) / sum exp(logits)), natural logarithm, in double.
double log_softmax_at(std::span<const float> logits, int target);

}  // namespace fairway::engine
