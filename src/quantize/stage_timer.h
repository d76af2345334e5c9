// Where the wall time of a job goes.
#pragma once

#include <chrono>

namespace fairway::quantize {

// Adds the time from construction to destruction to `seconds`.
class StageTimer {
 public:
  explicit StageTimer(double& seconds) : seconds_(seconds) {}
  ~StageTimer() { seconds_ += std::chrono::duration<double>(Clock::now() - start_).count(); }
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  double& seconds_;
  Clock::time_point start_ = Clock::now();
};

// What fn() returns.
template <typename Fn>
auto timed(double& seconds, Fn fn) {
  const StageTimer timer(seconds);
  return fn();
}

}  // namespace fairway::quantize
