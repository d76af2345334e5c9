// Rounds, elimination and the verdict.
#include "select/contest.h"

#include <algorithm>
#include <utility>

#include "fairway/error.h"

namespace fairway::select {
namespace {

constexpr double kLeastSampleSeconds = 1e-3;  // shorter calls are repeated

}  // namespace

Contest::Contest(std::vector<MoeCandidate> candidates)
    : candidates_(std::move(candidates)), samples_(candidates_.size()), in_(candidates_.size(), true) {
  if (candidates_.empty()) throw Error(ErrorKind::kUsage, "no candidates to time");
}

bool Contest::round(CallTimer& timer, const Stop& stop) {
  timer.route();
  const std::size_t count = candidates_.size(), first = static_cast<std::size_t>(turns_++) % count;
  std::vector<std::pair<std::size_t, double>> taken;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t c = (first + i) % count;
    if (!in_[c]) continue;
    if (stop && stop()) return false;
    taken.emplace_back(c, 1e3 * timer.time(candidates_[c], kLeastSampleSeconds));
  }
  ++rounds_;
  for (const auto& [c, milliseconds] : taken) samples_[c].push_back(milliseconds);
  return true;
}

bool Contest::warm_up(CallTimer& timer, int samples, const Stop& stop) {
  for (int i = 0; i < samples; ++i) {
    if (stop && stop()) return false;
    timer.time(candidates_.front(), kLeastSampleSeconds);
  }
  return true;
}

void Contest::drop_hopeless(double margin, int keep) {
  if (rounds_ == 0) return;
  const auto all = levelled();
  double best = 0;
  for (std::size_t c = 0; c < candidates_.size(); ++c) {
    const double own = select::median(all[c]);
    if (in_[c] && (best == 0 || own < best)) best = own;
  }
  for (std::size_t c = 1; c < candidates_.size(); ++c) {
    if (static_cast<int>(c) == keep) continue;
    in_[c] = in_[c] && *std::min_element(all[c].begin(), all[c].end()) <= best * (1 + margin);
  }
}

void Contest::keep_best(int count, int keep) {
  const auto all = levelled();
  std::vector<std::pair<double, std::size_t>> others;
  for (std::size_t c = 1; c < candidates_.size(); ++c) {
    if (in_[c] && static_cast<int>(c) != keep) others.emplace_back(select::median(all[c]), c);
  }
  std::sort(others.begin(), others.end());
  for (std::size_t i = static_cast<std::size_t>(count); i < others.size(); ++i) in_[others[i].second] = false;
}

double Contest::median(int i) const {
  return select::median(levelled()[static_cast<std::size_t>(i)]);
}

int Contest::winner() const {
  return static_cast<int>(fastest_beyond_doubt(samples_, in_));
}

}  // namespace fairway::select
