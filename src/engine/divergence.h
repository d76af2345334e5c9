// How far the prediction of one row of logits is from that of another.
#pragma once

#include <span>
#include <vector>

namespace fairway::engine {

struct RowDifference {
  double divergence;  // D(P_reference || P_candidate) in nats; NaN if a logit of either row is not finite
  double logprob;     // of the target under the candidate, natural logarithm
  bool same_top;      // both rows have their largest logit at the same index, the first one if there are several
};

// A row of reference logits with its softmax, for any number of candidates. Sums are in double. A row keeps its memory
// from one reset() to the next.
class ReferenceRow {
 public:
  void reset(std::span<const float> logits);  // [vocab], at least one; the logits must outlive their comparisons
  double logprob(int target) const;           // NaN if a logit is not finite
  RowDifference compare(std::span<const float> candidate, int target) const;  // [vocab]

 private:
  std::span<const float> logits_;
  std::vector<double> weights_;  // exp(logit - top)
  double top_ = 0, sum_ = 0;     // largest logit; sum of the weights
  std::size_t top_index_ = 0;
};

}  // namespace fairway::engine
