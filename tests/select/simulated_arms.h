// Kernels that exist only as numbers: their times with noise, and a learner that runs against them without a clock.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "select/learner.h"

namespace fairway::test {

struct SimulatedArms {
  std::vector<double> mean_ms;
  double jitter = 0.05;      // standard deviation of the noise, as a share of the mean
  double outlier_share = 0;  // of the calls, which take outlier_times as long
  double outlier_times = 5;

  double time(int arm, std::mt19937_64& random) const {
    const double mean = mean_ms[static_cast<std::size_t>(arm)];
    // Five deviations away is as far as noise goes: a time is never negative.
    const double noise = std::clamp(std::normal_distribution<double>()(random), -5.0, 5.0);
    const bool outlier = std::uniform_real_distribution<double>()(random) < outlier_share;
    return mean * (1 + jitter * noise) * (outlier ? outlier_times : 1);
  }
  int best() const { return static_cast<int>(std::min_element(mean_ms.begin(), mean_ms.end()) - mean_ms.begin()); }
};

struct Played {
  double mean_ms = 0;          // expected time of the arms that ran, without the noise
  int explored = 0;            // calls
  std::uint64_t switches = 0;  // of the current arm
};

// So many calls: choose, run, record.
inline Played play(select::Learner& learner, const SimulatedArms& arms, int calls, std::mt19937_64& random) {
  Played played;
  const std::uint64_t before = learner.switches();
  for (int call = 0; call < calls; ++call) {
    const select::Learner::Pick pick = learner.choose();
    learner.record(pick.arm, arms.time(pick.arm, random));
    played.mean_ms += arms.mean_ms[static_cast<std::size_t>(pick.arm)] / calls;
    played.explored += pick.explored;
  }
  played.switches = learner.switches() - before;
  return played;
}

// Calls until `arm` is the current one; `most` if that does not happen.
inline int calls_until_current(select::Learner& learner, const SimulatedArms& arms, int arm, int most,
                               std::mt19937_64& random) {
  for (int call = 0; call < most; ++call) {
    if (learner.current() == arm) return call;
    play(learner, arms, 1, random);
  }
  return most;
}

}  // namespace fairway::test
