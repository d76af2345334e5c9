// Which of a few candidates is fastest for one kind of call, by samples taken in turn.
#pragma once

#include <functional>
#include <vector>

#include "select/call_timer.h"
#include "select/verdict.h"

namespace fairway::select {

class Contest {
 public:
  // candidates: at least one, the default first.
  explicit Contest(std::vector<MoeCandidate> candidates);

  // Asked between samples whether to stop.
  using Stop = std::function<bool()>;

  // One routing, one sample of every candidate that is still in, starting with another one each time. If `stop` says so
  // nothing of the round is kept; false then.
  bool round(CallTimer& timer, const Stop& stop = {});
  // Calls of the default that are not counted: pages get mapped, clocks rise. False if stopped.
  bool warm_up(CallTimer& timer, int samples, const Stop& stop = {});

  // Candidates that cannot win any more are not called again: their fastest sample is slower by the fraction `margin`
  // than the median of the best. The default stays, and candidate `keep`.
  void drop_hopeless(double margin, int keep = 0);
  // Of all others only the `count` with the lowest medians.
  void keep_best(int count, int keep = 0);

  // Index of the winner by verdict.h; 0, the default, if nothing beats it beyond doubt.
  int winner() const;

  const std::vector<MoeCandidate>& candidates() const { return candidates_; }
  const std::vector<double>& samples(int i) const { return samples_[static_cast<std::size_t>(i)]; }  // milliseconds
  std::vector<std::vector<double>> levelled() const { return level_rounds(samples_); }
  double median(int i) const;  // milliseconds, of the samples with their rounds levelled (verdict.h); 0 without
  bool is_in(int i) const { return in_[static_cast<std::size_t>(i)]; }
  int rounds() const { return rounds_; }

 private:
  std::vector<MoeCandidate> candidates_;
  std::vector<std::vector<double>> samples_;  // of round r at [r], while the candidate was in
  std::vector<bool> in_;
  int rounds_ = 0, turns_ = 0;
};

}  // namespace fairway::select
