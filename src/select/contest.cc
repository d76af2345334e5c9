// Rounds, elimination and the verdict.
#include "select/contest.h"

#include <algorithm>
#include <utility>

#include "fairway/error.h"
#include "select/confidence.h"

namespace fairway::select {
namespace {

constexpr double kLeastSampleSeconds = 1e-3;  // shorter calls are repeated
constexpr int kLeastSamples = 3;
constexpr int kLeastToDrop = 2;  // one bad sample is no verdict
constexpr double kConfidence = 0.95;
constexpr double kLeastGain = 0.01;

}  // namespace

Contest::Contest(std::vector<MoeCandidate> candidates)
    : candidates_(std::move(candidates)), samples_(candidates_.size()), in_(candidates_.size(), true) {
  if (candidates_.empty()) throw Error(ErrorKind::kUsage, "no candidates to time");
}

bool Contest::round(CallTimer& timer, bool warmup, const std::atomic<bool>* cancel) {
  timer.route();
  const std::size_t count = candidates_.size(), first = static_cast<std::size_t>(turns_++) % count;
  std::vector<std::pair<std::size_t, double>> taken;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t c = (first + i) % count;
    if (!in_[c]) continue;
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) return false;
    taken.emplace_back(c, 1e3 * timer.time(candidates_[c], kLeastSampleSeconds));
  }
  if (warmup) return true;
  ++rounds_;
  for (const auto& [c, milliseconds] : taken) samples_[c].push_back(milliseconds);
  return true;
}

void Contest::drop_hopeless(double margin, int keep) {
  if (rounds_ < kLeastToDrop) return;
  double best = 0;
  for (std::size_t c = 0; c < candidates_.size(); ++c) {
    const double own = median(static_cast<int>(c));
    if (in_[c] && (best == 0 || own < best)) best = own;
  }
  for (std::size_t c = 1; c < candidates_.size(); ++c) {
    if (static_cast<int>(c) == keep) continue;
    in_[c] = in_[c] && *std::min_element(samples_[c].begin(), samples_[c].end()) <= best * (1 + margin);
  }
}

double Contest::median(int i) const {
  std::vector<double> sorted = samples(i);
  if (sorted.empty()) return 0;
  std::sort(sorted.begin(), sorted.end());
  const std::size_t half = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

int Contest::winner() const {
  int best = 0;
  for (int i = 1; i < static_cast<int>(candidates_.size()); ++i) {
    if (in_[static_cast<std::size_t>(i)] && !samples(i).empty() && median(i) < median(best)) best = i;
  }
  if (best == 0 || samples(best).size() < kLeastSamples) return 0;
  std::vector<double> ratios;
  for (std::size_t r = 0; r < samples(best).size(); ++r) ratios.push_back(samples(best)[r] / samples(0)[r]);
  const auto interval = confidence_interval(ratios, kConfidence);
  return interval && interval->high < 1 && median(best) < median(0) * (1 - kLeastGain) ? best : 0;
}

}  // namespace fairway::select
