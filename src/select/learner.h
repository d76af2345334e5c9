// Learns which of a few alternatives is fastest from the times of the calls themselves.
//
// Epsilon-greedy: most calls go to the current arm, a small share to the arm that could most probably replace it. The
// current arm changes only when the confidence intervals of the two means separate and the gain is worth it, so equal
// arms do not take turns. An arm whose latest times have left the interval of its earlier ones forgets the earlier
// ones: that is how a kernel that became slow, or fast again, is noticed. An arm that lost its place is probed now and
// then, and several times in a row as soon as a probe surprises; so is an arm that is hardly known once a time of it is
// far below those of the current arm.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

namespace fairway::select {

struct LearnerOptions {
  int history = 100;                // latest times kept per arm, 10..10000
  double exploration = 0.05;        // share of calls, 0..1; 0: nothing is tried after the sweep, nor probed
  double least_exploration = 0.01;  // what it decays to
  double confidence = 0.95;         // of the intervals, more than 0 and less than 1
  int sweep_calls = 0;              // of the first calls so many alternate between the current arm and new ones
  std::uint64_t seed = 1;
};

// The latest times of one arm, in the order in which they came.
class LatencyHistory {
 public:
  explicit LatencyHistory(int capacity) : times_(static_cast<std::size_t>(capacity)) {}
  void add(double milliseconds);
  void keep_latest(int count);
  void clear() { size_ = 0; }
  int size() const { return size_; }
  double at(int i) const;  // 0: oldest
  double mean(int begin, int end) const;
  double variance(int begin, int end) const;  // (n - 1); 0 for one
  std::vector<double> samples() const;

 private:
  std::vector<double> times_;
  int begin_ = 0, size_ = 0;
};

// Thread-safe: choose takes no lock and allocates nothing; record takes one lock per learner.
class Learner {
 public:
  static constexpr int kMaxArms = 32;

  // Arms 0 .. arms - 1, all of them legal. Error(kUsage) for options outside their ranges or too many arms.
  Learner(int arms, int preferred, const LearnerOptions& options);

  struct Pick {
    int arm;
    bool explored;
  };
  // legal: bit a set if arm a may be taken; at least one arm that exists must be among them.
  Pick choose(std::uint32_t legal = ~std::uint32_t{0});

  // The time of a call that ran this arm. Times that are not positive and finite are ignored.
  void record(int arm, double milliseconds);

  int add_arm();  // returns its index
  int current() const { return current_.load(std::memory_order_relaxed); }
  double exploration_rate() const;
  // Lowers the rate towards its least: performance_stability 1 halves it, 0 leaves it. Also called by record.
  void adapt_exploration_rate(double performance_stability);
  void reset();  // to what it was when it was new; arms that were added stay

  // The arm of the lowest mean among the legal ones that are faster than this one beyond doubt, which is the rule by
  // which the current arm changes; the arm itself if there is none.
  int better_than(int arm, std::uint32_t legal) const;

  std::vector<double> samples(int arm) const;
  std::uint64_t switches() const;  // changes of the current arm so far
  std::uint64_t records() const;   // times recorded so far
  int fastest() const;             // lowest mean of all arms with samples; current() if there are none

 private:
  struct Arm {
    LatencyHistory history;
    // Of the history, kept so that a comparison looks at no samples: n, their mean, half the width of its interval.
    int n = 0;
    double mean = 0, half = 0;
  };
  bool surprises(int arm, double milliseconds) const;
  static void summarize(Arm& arm, double t);
  bool is_faster(int a, int b) const;
  bool notice_change(const LatencyHistory& history) const;
  static void forget_earlier(LatencyHistory& history);
  int best_against(int than, std::uint32_t legal) const;
  void reconsider();
  void decay_exploration();
  void lower_exploration(double stability);
  void plan_exploration();

  const LearnerOptions options_;
  const int first_;
  std::vector<double> t_, change_t_;  // quantiles by degrees of freedom, of an interval and of a change
  std::atomic<int> current_, next_{0}, probes_{0};
  std::atomic<std::uint32_t> existing_;   // a bit for each arm
  std::atomic<std::uint32_t> threshold_;  // exploration rate times 2^32
  std::atomic<std::uint64_t> calls_{0};
  std::atomic<int> sweep_left_;

  mutable std::mutex mutex_;  // of all below
  std::vector<Arm> arms_;
  int dethroned_ = -1;  // the arm that was current before
  std::uint64_t records_ = 0, switches_ = 0, turn_ = 0;
};

}  // namespace fairway::select
