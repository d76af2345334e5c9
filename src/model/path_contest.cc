// Layers of a chain, and the verdict.
#include "model/path_contest.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "select/confidence.h"
#include "select/verdict.h"

namespace fairway::model {
namespace {

constexpr std::size_t kLeastRounds = 3;
constexpr double kConfidence = 0.95, kTrim = 0.125;  // as select/verdict.cc
constexpr double kLeastGain = 0.02;                  // of the time of a call

}  // namespace

std::vector<int> chain_layers(std::span<const std::string> kinds, int most) {
  std::map<std::string, std::vector<int>> groups;
  for (std::size_t l = 0; l < kinds.size(); ++l) groups[kinds[l]].push_back(static_cast<int>(l));
  std::vector<int> layers;
  for (const auto& [kind, group] : groups) {
    std::size_t count = group.size();
    if (kinds.size() > static_cast<std::size_t>(most)) {
      const double share = static_cast<double>(most) * static_cast<double>(count) / static_cast<double>(kinds.size());
      count = std::clamp<std::size_t>(static_cast<std::size_t>(std::lround(share)), 1, count);
    }
    for (std::size_t i = 0; i < count; ++i) layers.push_back(group[i * group.size() / count]);
  }
  std::sort(layers.begin(), layers.end());
  return layers;
}

std::vector<std::size_t> focused_chain(const std::vector<bool>& has) {
  constexpr std::size_t kNext = 2;
  const std::size_t layers = has.size();
  const auto with = static_cast<std::size_t>(std::count(has.begin(), has.end(), true));
  std::vector<bool> taken(layers, 2 * with >= layers);
  for (std::size_t l = 0; l < layers; ++l) {
    if (!has[l]) continue;
    const std::size_t end = std::min(layers, l + 1 + kNext);  // the last ones have others before them
    for (std::size_t i = std::min(l, end - std::min(end, 1 + kNext)); i < end; ++i) taken[i] = true;
  }
  if (with == 0) std::fill(taken.end() - static_cast<std::ptrdiff_t>(std::min(layers, kNext)), taken.end(), true);
  std::vector<std::size_t> places;
  for (std::size_t l = 0; l < layers; ++l) {
    if (taken[l]) places.push_back(l);
  }
  return places;
}

double path_spread(std::vector<double> samples) {
  const std::size_t n = samples.size();
  if (n < 4) return 0;
  std::sort(samples.begin(), samples.end());
  return samples[n - 1 - n / 4] / samples[n / 4] - 1;
}

PathVerdict judge_paths(std::span<const std::vector<double>> samples, const std::vector<double>& without, int calls) {
  std::vector<std::vector<double>> all(samples.begin(), samples.end());
  all.push_back(without);
  const auto levelled = select::level_rounds(all);
  const double rest = select::median(levelled.back());
  PathVerdict verdict;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    verdict.call_us.push_back(std::max(0.0, select::median(levelled[i]) - rest) / calls);
  }
  const std::size_t rounds = samples.front().size();
  std::size_t best = 0;
  for (std::size_t i = 1; i < samples.size(); ++i) {
    if (samples[i].size() != rounds) continue;
    if (verdict.call_us[i] < verdict.call_us[best]) best = i;
  }
  if (best == 0) return verdict;
  verdict.reason = PathReason::kTie;
  if (rounds < kLeastRounds || verdict.call_us[best] > (1 - kLeastGain) * verdict.call_us[0]) return verdict;
  std::vector<double> logs;
  for (std::size_t r = 0; r < rounds; ++r) logs.push_back(std::log(samples[best][r] / samples.front()[r]));
  const double confidence = 1 - (1 - kConfidence) / static_cast<double>(samples.size() - 1);
  const auto interval = select::trimmed_confidence_interval(logs, confidence, kTrim);
  verdict.seems_faster = !interval || interval->high >= 0;
  if (verdict.seems_faster) return verdict;
  verdict.winner = best;
  verdict.reason = PathReason::kBeaten;
  return verdict;
}

}  // namespace fairway::model
