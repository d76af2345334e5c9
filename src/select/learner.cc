// The rules of learner.h.
#include "select/learner.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "fairway/error.h"
#include "select/confidence.h"

namespace fairway::select {
namespace {

constexpr int kLeastSamples = 5;     // of an arm that wins or loses a comparison
constexpr int kLeastToSurprise = 3;  // of an arm that another one surprises: the spread of two says little
constexpr int kLatest = 5;           // samples that are compared with the earlier ones
constexpr double kLeastGain = 0.02;  // of the mean, below which arms are equal
// Samples that leave the earlier interval must do so at this confidence: a mistake costs the arm its history.
constexpr double kChangeConfidence = 0.999;
constexpr int kCallsPerProbe = 32;     // of the arm that was current before
constexpr double kHopeless = 1.5;      // times the current mean: explored less
constexpr int kRecordsPerDecay = 25;   // the exploration rate is looked at so often
constexpr int kTurnsPerHopeless = 16;  // one exploration in so many goes to any arm in turn

std::uint64_t mix(std::uint64_t x) {  // the finalizer of SplitMix64
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

std::uint32_t first_bits(int count) {
  return count >= 32 ? ~std::uint32_t{0} : (std::uint32_t{1} << count) - 1;
}

std::uint32_t as_threshold(double rate) {
  return static_cast<std::uint32_t>(std::min(rate * 4294967296.0, 4294967295.0));
}

const LearnerOptions& checked(const LearnerOptions& o) {
  const bool rates =
      o.exploration >= 0 && o.exploration <= 1 && o.least_exploration >= 0 && o.least_exploration <= o.exploration;
  if (o.history < 10 || o.history > 10000 || !rates || !(o.confidence > 0 && o.confidence < 1) || o.sweep_calls < 0) {
    throw Error(
        ErrorKind::kUsage,
        fmt::format("learner: history {}, exploration {} to {}, confidence {}, {} sweep calls; expected a history "
                    "of 10 to 10000, 0 <= least <= exploration <= 1, 0 < confidence < 1, no negative count",
                    o.history, o.exploration, o.least_exploration, o.confidence, o.sweep_calls));
  }
  return o;
}

}  // namespace

void LatencyHistory::add(double milliseconds) {
  const int capacity = static_cast<int>(times_.size());
  if (size_ == capacity) {
    times_[static_cast<std::size_t>(begin_)] = milliseconds;
    begin_ = (begin_ + 1) % capacity;
  } else {
    times_[static_cast<std::size_t>((begin_ + size_++) % capacity)] = milliseconds;
  }
}

void LatencyHistory::keep_latest(int count) {
  if (count >= size_) return;
  begin_ = (begin_ + size_ - count) % static_cast<int>(times_.size());
  size_ = count;
}

double LatencyHistory::at(int i) const {
  return times_[static_cast<std::size_t>(begin_ + i) % times_.size()];
}

double LatencyHistory::mean(int begin, int end) const {
  double sum = 0;
  for (int i = begin; i < end; ++i) sum += at(i);
  return sum / (end - begin);
}

double LatencyHistory::variance(int begin, int end) const {
  if (end - begin < 2) return 0;
  const double center = mean(begin, end);
  double squares = 0;
  for (int i = begin; i < end; ++i) squares += (at(i) - center) * (at(i) - center);
  return squares / (end - begin - 1);
}

std::vector<double> LatencyHistory::samples() const {
  std::vector<double> all(static_cast<std::size_t>(size_));
  for (int i = 0; i < size_; ++i) all[static_cast<std::size_t>(i)] = at(i);
  return all;
}

Learner::Learner(int arms, int preferred, const LearnerOptions& options)
    : options_(checked(options)),
      first_(preferred),
      current_(preferred),
      existing_(first_bits(arms)),
      threshold_(as_threshold(options.exploration)),
      sweep_left_(options.sweep_calls) {
  if (arms < 1 || arms > kMaxArms || preferred < 0 || preferred >= arms) {
    throw Error(ErrorKind::kUsage, fmt::format("learner: {} arms with number {} preferred, expected 1 to {} arms", arms,
                                               preferred, kMaxArms));
  }
  arms_.assign(static_cast<std::size_t>(arms), Arm{LatencyHistory(options.history)});
  for (int df = 0; df <= options.history; ++df) {
    t_.push_back(df == 0 ? 0 : student_t(options.confidence, df));
    change_t_.push_back(df == 0 ? 0 : student_t(kChangeConfidence, df));
  }
  plan_exploration();
}

Learner::Pick Learner::choose(std::uint32_t legal) {
  const auto is_legal = [legal](int arm) { return (legal >> arm & 1) != 0; };
  const std::uint64_t call = calls_.fetch_add(1, std::memory_order_relaxed);
  const int current = current_.load(std::memory_order_relaxed);
  int next = next_.load(std::memory_order_relaxed);
  if (!is_legal(next)) {
    // Not for this caller. Its explorations go to the next arm that it may take, and probes do not wait for another.
    const std::uint32_t able = legal & existing_.load(std::memory_order_relaxed);
    const std::uint32_t others = std::rotr(able & ~(std::uint32_t{1} << current), next);
    next = others == 0 ? current : (next + std::countr_zero(others)) % kMaxArms;
    probes_.store(0, std::memory_order_relaxed);
  }
  if (next != current) {
    bool explore = mix(options_.seed + call) >> 32 < threshold_.load(std::memory_order_relaxed);
    if (sweep_left_.load(std::memory_order_relaxed) > 0) {
      explore = explore || sweep_left_.fetch_sub(1, std::memory_order_relaxed) % 2 == 1;
    }
    int probes = probes_.load(std::memory_order_relaxed);
    if (probes > 0 && probes_.compare_exchange_strong(probes, probes - 1, std::memory_order_relaxed)) explore = true;
    if (explore) return {next, true};
  }
  if (is_legal(current)) return {current, false};
  return {std::countr_zero(legal), false};
}

void Learner::record(int arm, double milliseconds) {
  if (!std::isfinite(milliseconds) || milliseconds <= 0) return;
  const std::lock_guard lock(mutex_);
  if (arm < 0 || arm >= static_cast<int>(arms_.size())) {
    throw Error(ErrorKind::kUsage, fmt::format("learner: time for arm {} of {}", arm, arms_.size()));
  }
  ++records_;
  Arm& timed = arms_[static_cast<std::size_t>(arm)];
  const bool surprise = surprises(arm, milliseconds);
  timed.history.add(milliseconds);
  if (notice_change(timed.history)) forget_earlier(timed.history);
  summarize(timed, t_[static_cast<std::size_t>(timed.history.size() - 1)]);
  reconsider();
  if (records_ % kRecordsPerDecay == 0) decay_exploration();
  if (surprise && arm != current() && probes_.load(std::memory_order_relaxed) == 0) {
    next_.store(arm, std::memory_order_relaxed);
    probes_.store(timed.n < kLeastSamples ? kLeastSamples - timed.n : kLatest - 1, std::memory_order_relaxed);
  }
  if (probes_.load(std::memory_order_relaxed) == 0) plan_exploration();
}

// True if a few more calls of the arm should show at once whether this time of it was chance: one far below what was
// known of the arm that was current before, or, of an arm that is hardly known, far below those of the current arm.
bool Learner::surprises(int arm, double milliseconds) const {
  if (arm == current() || options_.exploration == 0) return false;
  const Arm& timed = arms_[static_cast<std::size_t>(arm)];
  const bool is_new = timed.n < kLeastSamples;
  const Arm& known = is_new ? arms_[static_cast<std::size_t>(current())] : timed;
  if (known.n < kLeastToSurprise || (!is_new && arm != dethroned_)) return false;
  return milliseconds < known.mean - std::max(known.half * std::sqrt(known.n), kLeastGain * known.mean);
}

// The more the times of the current arm agree, the less there is to find out.
void Learner::decay_exploration() {
  const Arm& now = arms_[static_cast<std::size_t>(current())];
  if (now.n < kLeastSamples) return;
  const double deviation = now.half * std::sqrt(now.n) / t_[static_cast<std::size_t>(now.n - 1)];
  lower_exploration(std::clamp(1 - deviation / now.mean, 0.0, 1.0));
}

void Learner::lower_exploration(double stability) {
  threshold_.store(as_threshold(std::max(options_.least_exploration, exploration_rate() * (1 - 0.5 * stability))),
                   std::memory_order_relaxed);
}

int Learner::add_arm() {
  const std::lock_guard lock(mutex_);
  if (arms_.size() == kMaxArms) {
    throw Error(ErrorKind::kUsage, fmt::format("learner: more than {} arms", kMaxArms));
  }
  arms_.push_back(Arm{LatencyHistory(options_.history)});
  existing_.store(first_bits(static_cast<int>(arms_.size())), std::memory_order_relaxed);
  plan_exploration();
  return static_cast<int>(arms_.size()) - 1;
}

double Learner::exploration_rate() const {
  return threshold_.load(std::memory_order_relaxed) / 4294967296.0;
}

void Learner::adapt_exploration_rate(double performance_stability) {
  if (!(performance_stability >= 0 && performance_stability <= 1)) {
    throw Error(ErrorKind::kUsage, fmt::format("performance stability {}, expected 0 to 1", performance_stability));
  }
  const std::lock_guard lock(mutex_);
  lower_exploration(performance_stability);
}

void Learner::reset() {
  const std::lock_guard lock(mutex_);
  for (Arm& arm : arms_) arm = Arm{LatencyHistory(options_.history)};
  current_.store(first_, std::memory_order_relaxed);
  threshold_.store(as_threshold(options_.exploration), std::memory_order_relaxed);
  sweep_left_.store(options_.sweep_calls, std::memory_order_relaxed);
  probes_.store(0, std::memory_order_relaxed);
  calls_.store(0, std::memory_order_relaxed);
  dethroned_ = -1;
  records_ = switches_ = turn_ = 0;
  plan_exploration();
}

bool Learner::is_faster(int a, int b) const {
  const Arm &one = arms_[static_cast<std::size_t>(a)], &other = arms_[static_cast<std::size_t>(b)];
  return a != b && one.n >= kLeastSamples && other.n >= kLeastSamples && one.mean < other.mean * (1 - kLeastGain) &&
         one.mean + one.half < other.mean - other.half;
}

std::vector<double> Learner::samples(int arm) const {
  const std::lock_guard lock(mutex_);
  return arms_.at(static_cast<std::size_t>(arm)).history.samples();
}

std::uint64_t Learner::switches() const {
  const std::lock_guard lock(mutex_);
  return switches_;
}

std::uint64_t Learner::records() const {
  const std::lock_guard lock(mutex_);
  return records_;
}

int Learner::fastest() const {
  const std::lock_guard lock(mutex_);
  int best = -1;
  for (int i = 0; i < static_cast<int>(arms_.size()); ++i) {
    const Arm& arm = arms_[static_cast<std::size_t>(i)];
    if (arm.n > 0 && (best < 0 || arm.mean < arms_[static_cast<std::size_t>(best)].mean)) best = i;
  }
  return best < 0 ? current() : best;
}

void Learner::summarize(Arm& arm, double t) {
  arm.n = arm.history.size();
  arm.mean = arm.history.mean(0, arm.n);
  arm.half = arm.n < 2 ? arm.mean : t * std::sqrt(arm.history.variance(0, arm.n) / arm.n);
}

// True if the latest samples say something else than the earlier ones.
bool Learner::notice_change(const LatencyHistory& history) const {
  const int n = history.size(), earlier = n - kLatest;
  if (earlier < kLatest) return false;
  const double was = history.mean(0, earlier), is = history.mean(earlier, n);
  if (std::abs(is - was) < 2 * kLeastGain * was) return false;
  const auto half = [&](const std::vector<double>& t, int begin, int end) {
    return t[static_cast<std::size_t>(end - begin - 1)] * std::sqrt(history.variance(begin, end) / (end - begin));
  };
  return std::abs(is - was) > half(change_t_, 0, earlier) + half(t_, earlier, n);
}

// Keeps the latest samples, without those of them that are still from before the change: a single one among few widens
// the interval so much that an arm which is seldom explored could not win or lose a comparison for thousands of calls.
void Learner::forget_earlier(LatencyHistory& history) {
  const double was = history.mean(0, history.size() - kLatest);
  history.keep_latest(kLatest);
  std::vector<double> latest = history.samples();
  std::nth_element(latest.begin(), latest.begin() + kLatest / 2, latest.end());
  const double is = latest[kLatest / 2];
  while (history.size() > 1 && std::abs(history.at(0) - was) < std::abs(history.at(0) - is)) {
    history.keep_latest(history.size() - 1);
  }
}

int Learner::best_against(int than, std::uint32_t legal) const {
  int best = than;
  for (int arm = 0; arm < static_cast<int>(arms_.size()); ++arm) {
    const bool lower =
        best == than || arms_[static_cast<std::size_t>(arm)].mean < arms_[static_cast<std::size_t>(best)].mean;
    if ((legal >> arm & 1) != 0 && lower && is_faster(arm, than)) best = arm;
  }
  return best;
}

int Learner::better_than(int arm, std::uint32_t legal) const {
  const std::lock_guard lock(mutex_);
  return best_against(arm, legal);
}

// Another arm becomes current if it is faster beyond doubt; of several the one with the lowest mean.
void Learner::reconsider() {
  const int current = this->current();
  const int best = best_against(current, ~std::uint32_t{0});
  if (best == current) return;
  ++switches_;
  dethroned_ = current;
  current_.store(best, std::memory_order_relaxed);
  probes_.store(0, std::memory_order_relaxed);
}

// The arm that the next exploration tries: one without enough samples, else the one whose interval reaches lowest; now
// and then any in turn, and the arm that was current before.
void Learner::plan_exploration() {
  const int count = static_cast<int>(arms_.size()), current = this->current();
  if (count < 2) return next_.store(current, std::memory_order_relaxed);
  ++turn_;
  if (options_.exploration > 0 && dethroned_ >= 0 && dethroned_ != current && turn_ % kCallsPerProbe == 0) {
    next_.store(dethroned_, std::memory_order_relaxed);
    probes_.store(1, std::memory_order_relaxed);
    return;
  }
  const Arm& now = arms_[static_cast<std::size_t>(current)];
  int next = -1, fewest = kLeastSamples;
  double lowest = 0;
  for (int i = 1; i < count; ++i) {
    const int arm = (current + i) % count;
    const Arm& other = arms_[static_cast<std::size_t>(arm)];
    const bool hopeless = now.n > 0 && other.n > 0 && other.mean > kHopeless * now.mean;
    if (hopeless) continue;
    if (other.n < fewest) {
      fewest = other.n;
      next = arm;
    } else if (fewest == kLeastSamples && (next < 0 || other.mean - other.half < lowest)) {
      lowest = other.mean - other.half;
      next = arm;
    }
  }
  if (next < 0 || turn_ % kTurnsPerHopeless == 0) {
    next = (current + 1 + static_cast<int>(turn_ / kTurnsPerHopeless) % (count - 1)) % count;
  }
  next_.store(next, std::memory_order_relaxed);
}

}  // namespace fairway::select
