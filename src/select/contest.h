// Which of a few candidates is fastest for one kind of call, by samples taken in turn.
#pragma once

#include <atomic>
#include <vector>

#include "select/call_timer.h"

namespace fairway::select {

class Contest {
 public:
  // candidates: at least one, the default first.
  explicit Contest(std::vector<MoeCandidate> candidates);

  // One routing, one sample of every candidate that is still in, starting with another one each time. A warm-up round
  // leaves no samples. Stops between samples once *cancel is true and then keeps nothing of the round; false if so.
  bool round(CallTimer& timer, bool warmup, const std::atomic<bool>* cancel = nullptr);

  // Candidates that cannot win any more are not called again: their fastest sample is slower by the fraction `margin`
  // than the median of the best, after two rounds or more. The default stays, and candidate `keep`.
  void drop_hopeless(double margin, int keep = 0);

  // Index of the winner: the candidate with the lowest median, if its times are below the default's in the same rounds
  // beyond doubt (Student's t on the ratios, 95 %) and by one per cent or more; else the default, 0.
  int winner() const;

  const std::vector<MoeCandidate>& candidates() const { return candidates_; }
  const std::vector<double>& samples(int i) const { return samples_[static_cast<std::size_t>(i)]; }  // milliseconds
  double median(int i) const;  // of the samples; 0 without
  bool is_in(int i) const { return in_[static_cast<std::size_t>(i)]; }
  int rounds() const { return rounds_; }

 private:
  std::vector<MoeCandidate> candidates_;
  std::vector<std::vector<double>> samples_;  // of round r at [r], while the candidate was in
  std::vector<bool> in_;
  int rounds_ = 0, turns_ = 0;
};

}  // namespace fairway::select
