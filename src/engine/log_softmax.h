// Log-probabilities of classes out of a row of logits.
#pragma once

#include <span>
#include <vector>

namespace fairway::engine {

// log(exp(logits[target]) / sum exp(logits)), natural logarithm, in double.
double log_softmax_at(std::span<const float> logits, int target);

// The `count` largest logits, or all if there are fewer: largest first, ties to the lower class. NaN counts as minus
// infinity.
std::vector<int> largest_logits(std::span<const float> logits, int count);

}  // namespace fairway::engine
