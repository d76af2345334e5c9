// sample: logits -> one token id.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fairway::kernels {

struct SampleParams {
  float temperature = 0.0f;  // 0: greedy (the other filters then have no effect)
  int top_k = 0;             // 0: off
  float top_p = 1.0f;        // (0, 1]; 1: off
  float min_p = 0.0f;        // [0, 1); 0: off
  float repetition_penalty =
      1.0f;  // > 0; 1: off. Logits of seen tokens are divided (positive) or multiplied (negative)
  bool operator==(const SampleParams&) const = default;
};

// Order: repetition penalty, temperature, top-k, top-p, min-p, draw. Greedy ties go to the lower id. NaN never wins.
class Sampler {
 public:
  Sampler(SampleParams params, std::uint64_t seed);
  // `history`: tokens seen so far (prompt and output) for the penalty. logits: [vocab], left unchanged.
  int sample(std::span<const float> logits, std::span<const int> history);

 private:
  // Probability of a token relative to the best one.
  double relative_weight(int id, double best) const;
  // Puts the candidates of ranks [begin, end) in their places of order_; those before begin are in place already.
  void sort_part(std::size_t begin, std::size_t end);
  // Leave the kept candidates first in order_, their relative weights in weights_, and return the weights' sum.
  double keep_top_p(double best, bool sorted);
  double keep_min_p(double best);

  SampleParams params_;
  std::uint64_t state_;         // splitmix64, so that a seed gives the same text on every platform
  std::vector<float> scratch_;  // [vocab] logits after penalty, NaN as -infinity
  std::vector<int> order_;
  std::vector<double> weights_;
};

}  // namespace fairway::kernels
